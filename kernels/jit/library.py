"""Kernels as native code: compiled once by Numba to object files, kept in the cache, loaded without Numba."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterable

from .. import KERNELS, kernel_name
from . import cache, elf

_lock = threading.RLock()
_addresses: dict[tuple, int] = {}
_engines = []  # they own what LLVM has loaded


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
        if absent:
            objects.update(_compile(absent, progress))
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


def _compile(
    specifications: list[tuple], progress: Callable[[int, int], None] | None = None
) -> dict[tuple, tuple[str, bytes]]:
    """{specification: (symbol, object code)}, without any reference to Python; written to the cache, too."""
    from .compiler import object_code, undisturbed

    compiled, progress = {}, progress or (lambda done, total: None)
    with undisturbed():
        for specification in specifications:
            progress(len(compiled), len(specifications))
            name, *variant = specification
            python = KERNELS[name].build(*variant)
            # Numba derives symbols from these names: two variants must never share one.
            python.__name__ = python.__qualname__ = kernel_name(specification)
            compiled[specification] = symbol, code = object_code(python, KERNELS[name].arity)
            _write(specification, symbol, code)
    progress(len(compiled), len(specifications))
    return compiled


def _load(objects: dict[tuple, tuple[str, bytes]]) -> None:
    loaded = elf.load(objects.values())
    if loaded is None:
        loaded = _load_with_llvm(objects.values())
    _addresses.update(zip(objects, loaded, strict=True))


def _load_with_llvm(objects: Iterable[tuple[str, bytes]]) -> list[int]:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    for _, code in objects:
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return [engine.get_function_address(symbol) for symbol, _ in objects]


def _read(specification: tuple) -> tuple[str, bytes] | None:
    content = cache.read(kernel_name(specification))
    if content is None:
        return None
    symbol, code = content.split(b"\n", 1)
    return symbol.decode(), code


def _write(specification: tuple, symbol: str, code: bytes) -> None:
    cache.write(kernel_name(specification), symbol.encode() + b"\n" + code)
