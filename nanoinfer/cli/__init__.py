"""The command line. A wrong use or a bad input is one line on standard error and exit code 2; Ctrl-C is exit code 130.

parser.py holds the commands' arguments, commands.py and reports.py the commands, predictions.py what predict prints.

This file imports nothing at its top: whatever `main` imports can be interrupted without a traceback. Each command
imports what it needs when it runs, so `nanoinfer models` loads no kernels and JSON output loads no table printer.
"""

from __future__ import annotations

INTERRUPTED = 130  # exit code, as shells report a process that SIGINT ended


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code. --help and --version leave with SystemExit, as argparse does.

    `argv` None stands for the arguments of the process, which then has nothing to do after `main`.
    """
    try:
        from .interrupts import Interruptible

        with Interruptible(last=argv is None):
            return _run(argv)
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(argv: list[str] | None) -> int:
    import os
    import sys
    import warnings

    from ..errors import InputError, printable
    from .parser import make_parser

    for name in ("stdout", "stderr"):  # a stream that the caller has closed is None
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))
    # One write a line, since warnings also come from threads that decode images.
    warnings.showwarning = lambda message, *_, **__: sys.stderr.write(f"nanoinfer: warning: {message}\n")
    if hasattr(sys.stdout, "reconfigure"):  # a file name or label that the console cannot show must not end the run
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = None
    try:
        arguments = make_parser().parse_args(argv)
        code = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader (head, less) has seen enough; nothing may be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except InputError as error:
        return fail(error.full if getattr(arguments, "verbose", False) else str(error))
    except ModuleNotFoundError as error:
        if (error.name or "nanoinfer").partition(".")[0] == "nanoinfer":
            raise
        return fail(f"{error.name} is not installed; 'nanoinfer doctor' says what this installation lacks")
    except MemoryError as error:
        return fail(f"{error or 'not enough memory'}; choose a smaller size")
    except OSError as error:
        name = f"{printable(error.filename)}: " if error.filename else ""
        return fail(f"{name}{error.strerror or error}; check the path, its permissions and the disk")


def tell(name: str, notes: tuple[str, ...]) -> None:
    """Print what was chosen in a source of weights, a line on standard error for each of its notes."""
    import sys

    for note in notes:
        print(f"nanoinfer: {name}: {note}", file=sys.stderr)


def fail(message: str) -> int:
    """Print one line on standard error; returns exit code 2. The output so far comes first."""
    import sys

    try:
        sys.stdout.flush()
        sys.stderr.write(f"nanoinfer: {message}\n")
    except OSError:  # neither stream can be written; the exit code still tells
        pass
    return 2
