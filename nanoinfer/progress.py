"""Progress bars for work that takes seconds, on a terminal; nothing where there is none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_display = None  # rich's live display; bars that are open at the same time share it


@contextmanager
def progress_bar(text: str) -> Iterator[Callable[[int, int], None] | None]:
    """A callback (done, total) that moves a bar on standard error, or None if that is no terminal.

    The bar appears with the first call and goes away at the end, so work that turns out to be done shows nothing.
    """
    global _display
    if not sys.stderr.isatty():
        yield None
        return
    bar, outer = None, _display

    def advance(done: int, total: int) -> None:
        nonlocal bar
        global _display
        if _display is None:
            from rich.console import Console
            from rich.progress import Progress

            # Standard output stays as it is: it may be a file that takes the results.
            _display = Progress(console=Console(stderr=True), transient=True, redirect_stdout=False)
            _display.start()
        if bar is None:
            bar = _display.add_task(text)
        _display.update(bar, completed=done, total=total)

    try:
        yield advance
    finally:
        if _display is not None:
            if bar is not None:
                _display.remove_task(bar)
            if outer is None:
                _display.stop()
                _display = None
