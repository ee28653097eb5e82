"""The terminal: tables on standard output, progress bars on standard error.

rich draws both and is imported for nothing else: it takes about as long to load as everything else together.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

PIPE_WIDTH = 10_000  # characters; in a pipe or file every row stands on one line, however long

# rich's live display, shared by the bars that are open at the same time, in whatever threads; stopped with the last.
_lock = threading.Lock()
_display = None
_open_bars = 0


def print_table(columns: Sequence, *groups: Iterable[Sequence[str]]) -> None:
    """Groups of rows of strings, under the columns' `title` and aligned by their `right`; a blank line parts groups."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        justify = "right" if column.right else "left"
        table.add_column(column.title, justify=justify, no_wrap=column.right, overflow="fold")
    for group in groups:
        for row in group:
            table.add_row(*map(Text, row))  # Text, because rich would read "[...]" in a string as its own markup
        table.add_section()
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PIPE_WIDTH)
    console.print(table)


@contextmanager
def progress_bar(text: str, rate: str = "") -> Iterator[Callable[..., None] | None]:
    """A callback (done, total, before=0) that moves a bar on standard error, or None if that is no terminal.

    total: None where nobody knows. before: what was done already, and says nothing about the time left. rate: the unit
    of how many are done in a second, if that is to be shown. The bar appears with the first call and goes away at the
    end, so work that turns out to be done shows nothing.
    """
    if not sys.stderr.isatty():
        yield None
        return
    bar = None

    def advance(done: int, total: int | None, before: int = 0) -> None:
        nonlocal bar
        global _display, _open_bars
        with _lock:
            if bar is None:
                if _display is None:
                    _display = _new_display()
                bar = _display.add_task(text, rate=rate, completed=before)
                _open_bars += 1
            _display.update(bar, completed=done, total=total)

    try:
        yield advance
    finally:
        if bar is not None:
            _close(bar)


def _new_display():
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        """How many are done, and how many in a second."""

        def render(self, task) -> Text:
            shown = task.fields["rate"] and task.speed
            return Text(f"{int(task.completed):,}, {task.speed:,.0f} {task.fields['rate']}" if shown else "")

    # Standard output stays as it is: it may be a file that takes the results.
    columns = (*Progress.get_default_columns(), Rate())
    display = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
    display.start()
    return display


def _close(bar) -> None:
    global _display, _open_bars
    with _lock:
        _display.remove_task(bar)
        _open_bars -= 1
        if not _open_bars:
            _display.stop()
            _display = None
