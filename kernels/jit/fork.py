"""Forking beside threads that compile: a fork waits for them.

A forked child has the thread that forked and no other. A lock that another thread held stays locked in it for ever, and
what that thread was changing stays half changed. So a fork takes the locks under which kernels are compiled, this
package's, Numba's and LLVM's, and gives them back in parent and child. Numba's guards the user's own functions too. A
fork then takes as long as a compilation that is under way, but a child can compile.

All locks are re-entrant: a fork amid a compilation of the same thread, as in a signal handler, waits for nothing.
"""

from __future__ import annotations

# A hook before a fork runs the earlier, the later it was registered. That of logging takes a lock that compiling
# threads want, and must not have it while ours waits for these.
import logging  # noqa: F401
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress

# Nobody else may be importing these: a child that is forked amid an import can never import the same.
MODULES = ("numba", "llvmlite", "llvmlite.binding")

lock = threading.RLock()  # of threads that compile or load kernels
_forks = threading.local()  # .held: for each fork that this thread is in, what holds the locks, or None


def _hold() -> Iterator[None]:
    """A generator that holds all locks from its first step until it is closed.

    The order is that in which a compilation takes them.
    """
    with lock, ExitStack() as stack:
        manager = getattr(sys.modules["_frozen_importlib"], "_ModuleLockManager", None)
        for name in MODULES if manager else ():
            with suppress(RuntimeError):  # importlib finds deadlocks: this thread forks amid an import
                stack.enter_context(manager(name))
        for other in _locks_of_numba():
            stack.enter_context(other)
        yield


def _locks_of_numba() -> list:
    """Numba's and LLVM's locks, if they are loaded: those of the types' and of the code's context, of the compiler, of
    all calls to LLVM."""

    def known(module: str, name: str):
        return getattr(sys.modules.get(module), name, None)

    contexts = getattr(known("numba.core.registry", "CPUTarget"), "__dict__", {})
    found = [getattr(contexts.get(f"_toplevel_{kind}_context"), "_lock", None) for kind in ("typing", "target")]
    found += [known("numba.core.compiler_lock", "global_compiler_lock")]
    found += [getattr(known("llvmlite.binding.ffi", "lib"), "_lock", None)]
    return [lock for lock in found if lock is not None]


def _before() -> None:
    held = _forks.__dict__.setdefault("held", [])
    held.append(None)
    holder = _hold()
    next(holder)  # if a signal handler raises here, the generator lets go, and the fork goes on without
    held[-1] = holder


def _release() -> bool:
    """Give back what this thread's last fork took; whether it had taken the locks."""
    held = getattr(_forks, "held", None)
    holder = held.pop() if held else None
    if holder:
        holder.close()
    return holder is not None


def _after_in_child() -> None:
    global lock
    if not _release():  # no hook ran before the fork, as in a program in C that forks by itself, or it was interrupted
        lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_release, after_in_child=_after_in_child)
