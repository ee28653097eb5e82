"""Progress bars for work that takes seconds, on a terminal; nothing where there is none."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# rich's live display, shared by the bars that are open at the same time, in whatever threads; stopped with the last.
_lock = threading.Lock()
_display = None
_open_bars = 0


@contextmanager
def progress_bar(text: str) -> Iterator[Callable[[int, int], None] | None]:
    """A callback (done, total) that moves a bar on standard error, or None if that is no terminal.

    The bar appears with the first call and goes away at the end, so work that turns out to be done shows nothing.
    """
    if not sys.stderr.isatty():
        yield None
        return
    bar = None

    def advance(done: int, total: int) -> None:
        nonlocal bar
        global _display, _open_bars
        with _lock:
            if bar is None:
                if _display is None:
                    _display = _new_display()
                bar = _display.add_task(text)
                _open_bars += 1
            _display.update(bar, completed=done, total=total)

    try:
        yield advance
    finally:
        if bar is not None:
            _close(bar)


def _new_display():
    from rich.console import Console
    from rich.progress import Progress

    # Standard output stays as it is: it may be a file that takes the results.
    display = Progress(console=Console(stderr=True), transient=True, redirect_stdout=False)
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
