"""Kernels as native code: compiled once by Numba to object files, kept in a cache, loaded without Numba.

The cache is a folder per combination of kernel sources, compiler versions and target CPU, so that nothing in it
can be stale: a changed kernel looks in another folder. One file per kernel holds its symbol, a checksum and the
object code. A file that is missing, cut short or changed is compiled again.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import stat
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm

from . import KERNELS, kernel_name, target

MAGIC = b"nanoinfer kernel 1\n"
_lock = threading.RLock()
_addresses: dict[tuple, int] = {}
_engines = []  # they own the loaded code


def _renew_lock() -> None:
    """In a forked child: the thread that held the lock may not exist there."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def addresses(specifications: Iterable[tuple], progress: Callable[[int, int], None] | None = None) -> dict[tuple, int]:
    """{specification: address of its native code}, compiled if need be.

    `progress(done, total)` is called around each compilation, and not at all when everything is loaded from cache.
    """
    with _lock:
        wanted = list(dict.fromkeys(specifications))
        missing = [specification for specification in wanted if specification not in _addresses]
        objects = {specification: _read(specification) for specification in missing}
        absent = [specification for specification in missing if objects[specification] is None]
        for done, specification in enumerate(absent):
            if progress:
                progress(done, len(absent))
            objects[specification] = symbol, code = _compile(specification)
            _write(specification, symbol, code)
        if absent and progress:
            progress(len(absent), len(absent))
        if objects:
            _load(objects)
        return {specification: _addresses[specification] for specification in wanted}


def function(specification: tuple) -> Callable[..., int]:
    """A kernel as a Python callable of int64 arguments; the GIL is released while it runs."""
    address = addresses([specification])[specification]
    arity = KERNELS[specification[0]].arity
    native = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_int64] * (2 + arity))(address)
    unused = ctypes.create_string_buffer(16)  # Numba's calling convention: a result and an exception, never written to
    pointer = ctypes.addressof(unused)

    def call(*arguments: int) -> int:
        return native(pointer, pointer + 8, *arguments)

    call.keep = unused
    return call


def _compile(specification: tuple) -> tuple[str, bytes]:
    """Symbol and object code of one variant, without any reference to Python."""
    from numba import njit, types

    name, *variant = specification
    kernel = KERNELS[name]
    python = kernel.build(*variant)
    # Numba derives symbols from these names: two variants must never share one.
    python.__name__ = python.__qualname__ = kernel_name(specification)
    options = dict(error_model="numpy", nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
    dispatcher = njit(types.void(*[types.int64] * kernel.arity), **options)(python)
    result = next(iter(dispatcher.overloads.values()))
    return result.fndesc.llvm_func_name, result.library._get_compiled_object()


def _load(objects: dict[tuple, tuple[str, bytes]]) -> None:
    target.host()  # initialises LLVM
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    for _, code in objects.values():
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    for specification, (symbol, _) in objects.items():
        _addresses[specification] = engine.get_function_address(symbol)


@cache
def cache_folder() -> Path | None:
    """The folder for this target and these sources, made if need be; None, with one warning, if there can be none.

    It lies in NANOINFER_CACHE_DIR, else in the user's cache folder. A folder that others can write to is refused:
    what lies in it is run.
    """
    default = {"win32": os.environ.get("LOCALAPPDATA"), "darwin": "~/Library/Caches"}.get(sys.platform)
    base = os.environ.get("XDG_CACHE_HOME") or default or "~/.cache"
    base = os.environ.get("NANOINFER_CACHE_DIR") or os.path.join(os.path.expanduser(base), "nanoinfer")
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    machine = target.host()
    for part in (version("numba"), llvmlite.__version__, machine.cpu, machine.features, sys.platform):
        digest.update(part.encode() + b"\0")
    folder = Path(base) / digest.hexdigest()[:24]
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
        if os.name == "posix":
            outer = folder.parent.stat().st_mode  # whoever can rename what lies in it can put another folder there
            exposed = status.st_mode & stat.S_IWOTH or (outer & stat.S_IWOTH and not outer & stat.S_ISVTX)
            if exposed or status.st_uid not in (0, os.geteuid()):
                raise PermissionError("others can write to it")
        if not os.access(folder, os.W_OK):
            raise PermissionError("it is not writable")
    except OSError as error:
        _warn(f"no kernel cache in {base} ({error.strerror or error})")
        return None
    return folder


@cache
def _warn(problem: str) -> None:
    """Once for each problem, not once for each kernel."""
    warnings.warn(
        f"{problem}: kernels are compiled again in every process; set NANOINFER_CACHE_DIR to a folder of your own",
        RuntimeWarning,
        stacklevel=4,
    )


def _checksum(symbol: bytes, code: bytes) -> bytes:
    return hashlib.sha256(symbol + b"\n" + code).hexdigest().encode()


def _read(specification: tuple) -> tuple[str, bytes] | None:
    folder = cache_folder()
    if folder is None:
        return None
    try:
        content = (folder / kernel_name(specification)).read_bytes()
        head, symbol, checksum, code = content[: len(MAGIC)], *content[len(MAGIC) :].split(b"\n", 2)
    except (OSError, ValueError):
        return None
    if head != MAGIC or checksum != _checksum(symbol, code):
        return None
    return symbol.decode(), code


def _write(specification: tuple, symbol: str, code: bytes) -> None:
    """Under a temporary name, then renamed: other processes see all of a file or nothing."""
    folder = cache_folder()
    if folder is None:
        return
    content = b"\n".join([MAGIC + symbol.encode(), _checksum(symbol.encode(), code), code])
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            temporary = file.name
            file.write(content)
        os.replace(temporary, folder / kernel_name(specification))
    except OSError as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        cache_folder.cache_clear()
        _warn(f"cannot write to the kernel cache in {folder} ({error.strerror or error})")
