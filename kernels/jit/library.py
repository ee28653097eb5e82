"""Kernels as native code: object files of the wheel or of the cache, which are loaded without Numba.

What neither of the two has, Numba compiles once, for the cache to keep.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable

from ...errors import InputError
from .. import KERNELS, family, kernel_name
from . import cache, elf, fork, shipped, target

_addresses: dict[str, int] = {}  # by kernel name
_origins: dict[str, str] = {}
_engines = []  # they own what LLVM has loaded


def addresses(specs: Iterable, progress: Callable[[int, int], None] | None = None) -> dict[str, int]:
    """{kernel name: address of its native code} for all specs, compiled if need be.

    `progress(done, total)` is called around each compilation, and not at all when nothing is compiled. Raises
    InputError if something has to be, and cannot.
    """
    with fork.lock:
        wanted = {kernel_name(spec): spec for spec in specs}
        objects, origins = {}, {}
        for name in wanted:
            if name not in _addresses:
                origins[name], objects[name] = _read(name)
        absent = [spec for name, spec in wanted.items() if name in objects and objects[name] is None]
        if absent:
            objects.update(_compile(absent, progress))
        if objects:
            _load(objects)
            _origins.update(origins)
        return {name: _addresses[name] for name in wanted}


def origins() -> dict[str, str]:
    """{kernel name: "wheel", "cache" or "compiler"}: where the code of each came from that this process has loaded."""
    with fork.lock:
        return dict(_origins)


def function(spec) -> Callable[..., int]:
    """A kernel as a Python callable of int64 arguments; the GIL is released while it runs."""
    address = addresses([spec])[kernel_name(spec)]
    arity = KERNELS[family(spec)].arity
    native = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_int64] * (2 + arity))(address)
    unused = ctypes.create_string_buffer(16)  # Numba's calling convention: a result and an exception, never written to
    pointer = ctypes.addressof(unused)

    def call(*arguments: int) -> int:
        return native(pointer, pointer + 8, *arguments)

    call.keep = unused
    return call


def _compile(specs: list, progress: Callable[[int, int], None] | None = None) -> dict[str, tuple[str, bytes]]:
    """{kernel name: (symbol, object code)}, without any reference to Python; written to the cache, too."""
    try:
        from .compiler import compile_settings
    except ModuleNotFoundError as error:
        names = ", ".join([*map(kernel_name, specs[:3]), *(["..."] if specs[3:] else [])])
        count, absent = "1 kernel has" if len(specs) == 1 else f"{len(specs)} kernels have", error.name.split(".")[0]
        raise InputError(
            f"{count} to be compiled here ({names}), and {absent} is not installed: pip install numba llvmlite"
        ) from error
    except PermissionError as error:  # Numba refuses to be imported where it could not run what it compiles
        raise InputError(
            f"kernels cannot be compiled here ({error.strerror}); run 'nanoinfer warmup' once without this "
            "restriction, such as MemoryDenyWriteExecute of systemd: kernels in the cache load under it"
        ) from error
    compiled, progress = {}, progress or (lambda done, total: None)
    with compile_settings():
        for spec in specs:
            progress(len(compiled), len(specs))
            name = kernel_name(spec)
            compiled[name] = symbol, code = compiled_for(None, spec)
            cache.write(name, symbol.encode() + b"\n" + code)
    progress(len(compiled), len(specs))
    return compiled


def compiled_for(wanted: target.Target | None, spec) -> tuple[str, bytes]:
    """(symbol, object code) of a kernel for any target, None being this machine; nothing is cached or loaded.

    Many calls belong into `compiler.compile_settings()`.
    """
    from .compiler import object_code

    kernel = KERNELS[family(spec)]
    python = kernel.build(spec)
    # Numba derives symbols from these names: two variants must never share one.
    python.__name__ = python.__qualname__ = kernel_name(spec)
    return object_code(python, kernel.arity, wanted)


def _read(name: str) -> tuple[str, tuple[str, bytes] | None]:
    """("wheel" or "cache", (symbol, object code)), or ("compiler", None)."""
    if code := shipped.read(name):
        return "wheel", (name, code)
    content = cache.read(name)
    if content is None:
        return "compiler", None
    symbol, code = content.split(b"\n", 1)
    return "cache", (symbol.decode(), code)


def _load(objects: dict[str, tuple[str, bytes]]) -> None:
    loaded = elf.load(objects.values())
    if loaded is None:
        loaded = _load_with_llvm(objects.values())
    _addresses.update(zip(objects, loaded, strict=True))


def _load_with_llvm(objects: Iterable[tuple[str, bytes]]) -> list[int]:
    llvm = target.llvm()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    try:
        llvm.check_jit_execution()  # LLVM itself would crash
    except OSError as error:
        raise elf.Refused(f"LLVM: {error.strerror}") from error
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    for _, code in objects:
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return [engine.get_function_address(symbol) for symbol, _ in objects]
