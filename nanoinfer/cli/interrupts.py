"""Ctrl-C that always ends a command, whatever code it interrupts, and never shows a traceback.

A KeyboardInterrupt alone does not do that. Python prints and drops it in finalisers and in callbacks of weak
references, and turns it into a RuntimeError in `__set_name__`, where modules make their classes.
"""

from __future__ import annotations

import _signal  # the C module under signal, which imports enum
import _thread
import os
import sys
import time

from . import INTERRUPTED

SHOW_CURSOR = b"\x1b[?25h"


class Interruptible:
    """A context in which Ctrl-C raises KeyboardInterrupt, or ends the process at once in the midst of an import.

    After the context Ctrl-C has its former meaning. If the context is the `last` thing that the process does, Ctrl-C
    is ignored afterwards; but after an interrupt a second one ends the process without waiting for its exit. The
    context changes nothing outside of the main thread, and where SIGINT has another handler: in the background of a
    shell, or in a program that calls `main`.
    """

    def __init__(self, last: bool):
        self.last, self.handler, self.hook, self.frame = last, None, None, None

    def __enter__(self):
        if _signal.getsignal(_signal.SIGINT) is not _signal.default_int_handler:
            return
        self.frame = sys._getframe(1)
        try:
            self.handler = _signal.signal(_signal.SIGINT, self._interrupt)
        except ValueError:  # not the main thread
            return
        self.hook, sys.unraisablehook = sys.unraisablehook, self._unraisable

    def __exit__(self, error, *_):
        if self.handler is None:
            return
        if self.last:
            self.handler = _signal.SIG_DFL if error is KeyboardInterrupt else _signal.SIG_IGN
        _signal.signal(_signal.SIGINT, self.handler)
        sys.unraisablehook = self.hook
        self.frame = None

    def _interrupt(self, number: int, frame) -> None:
        while frame is not None and frame is not self.frame:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                _exit()
            frame = frame.f_back
        raise KeyboardInterrupt

    def _unraisable(self, dropped) -> None:
        if dropped.exc_type is KeyboardInterrupt:
            _thread.start_new_thread(_interrupt_again, (_thread.get_ident(),))
        else:
            self.hook(dropped)


class Finishing:
    """A context in which the first Ctrl-C is a request, `asked`, so that work in hand can be finished and kept.

    A second one has its former meaning. Only where an `Interruptible` has put its handler does anything change.
    """

    def __init__(self):
        self.requested, self.former = False, None

    def asked(self) -> bool:
        return self.requested

    def __enter__(self) -> Finishing:
        former = _signal.getsignal(_signal.SIGINT)
        if isinstance(getattr(former, "__self__", None), Interruptible):
            _signal.signal(_signal.SIGINT, self._ask)
            self.former = former
        return self

    def _ask(self, number: int, frame) -> None:
        self.requested = True
        _signal.signal(_signal.SIGINT, self.former)

    def __exit__(self, *_):
        if self.former is not None:
            _signal.signal(_signal.SIGINT, self.former)


def _exit() -> None:
    """End the process at once; output so far is written, and the cursor, which a progress bar hides, is shown."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # closed, full, or interrupted in the midst of a write
            pass
    if os.isatty(2):
        os.write(2, SHOW_CURSOR)
    os._exit(INTERRUPTED)


def _interrupt_again(main_thread: int) -> None:
    time.sleep(0.001)  # meanwhile the main thread leaves the code that drops exceptions
    if hasattr(_signal, "pthread_kill"):  # a signal also ends a wait in the system
        _signal.pthread_kill(main_thread, _signal.SIGINT)
    else:
        _thread.interrupt_main()
