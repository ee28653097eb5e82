"""From a Python function to object code: Numba types it and writes LLVM code, LLVM optimises and assembles that.

Both are made for any program: Numba rewrites array expressions and counts references, LLVM runs its standard
passes over each function and twice over each module. A kernel is int64 arithmetic, loops, register tiles and
intrinsics; a few passes turn it into inner loops as good, in much less time. Importing this module imports Numba.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import llvmlite.binding as llvm
from numba import config, types
from numba.core import typed_passes, untyped_passes
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, Flags, compile_extra
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager
from numba.core.registry import cpu_target

from ..simd.intrinsics import SYSTEM_CALLS
from . import target

NUMBA_PASSES = (
    untyped_passes.TranslateByteCode,
    untyped_passes.FixupArgs,
    untyped_passes.IRProcessing,
    untyped_passes.InlineInlinables,
    typed_passes.NopythonTypeInference,
    typed_passes.IRLegalization,
    typed_passes.AnnotateTypes,
    typed_passes.NativeLowering,
    typed_passes.NoPythonBackend,
)
LLVM_PASSES = (
    "sroa",  # variables and the vectors of register tiles leave the stack
    "instruction_combine",
    "sroa",  # the state of loops over range, which only now is seen to be numbers
    "simplify_cfg",
    "loop_rotate",  # one jump for each turn of a loop
    "aggressive_dce",  # counters that nobody reads
    "instruction_combine",
    "global_dead_code_eliminate",  # texts of Numba's exceptions, and addresses of this process's objects
)
# What depends on Numba's settings where it is not given: debug, boundscheck.
OPTIONS = dict(
    nopython=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, debug=False, boundscheck=False
)


class _Pipeline(CompilerBase):
    """Numba's compiler, with these passes."""

    def define_pipelines(self):
        manager = PassManager("kernel")
        for step in NUMBA_PASSES:
            manager.add_pass(step, step.__name__)
        manager.finalize()
        return [manager]


class _Text(JITCodeLibrary):
    """Where Numba puts a function's LLVM code: kept as text, and left as it is."""

    def __init__(self, codegen, name: str, machine: llvm.TargetMachine):
        super().__init__(codegen, name)
        self.machine = machine

    def create_ir_module(self, name):
        """An empty module for the target, which intrinsics read there; Numba's own is for the host."""
        module = super().create_ir_module(name)
        module.triple, module.data_layout = self.machine.triple, str(self.machine.target_data)
        return module

    def add_ir_module(self, module):
        self.text = str(module)

    def add_linking_library(self, library):
        """Numba offers its run-time library to every function; a kernel takes nothing of it."""


def object_code(function: Callable, arity: int, wanted: target.Target | None = None) -> tuple[str, bytes]:
    """(symbol, object code) of a function of `arity` int64 arguments that returns nothing; the symbol is its name.

    The code is for the target `wanted`, None being this machine. Numba lowers it as for this machine in any case, since
    int64 and explicit vectors are alike on all little-endian 64-bit machines; the system has to be the same.
    Raises TypeError if it calls anything that would have to be linked to it.
    """
    # Before the compiler's lock: other code that compiles takes the two in this order.
    typing, context = cpu_target.typing_context, cpu_target.target_context
    with global_compiler_lock:
        flags, name = Flags(), function.__qualname__
        cpu_target.options.parse_as_flags(flags, OPTIONS)
        flags.no_compile = True
        machine = _machine(wanted)
        code, arguments = _Text(context.codegen(), name, machine), [types.int64] * arity
        result = compile_extra(typing, context, function, arguments, types.void, flags, {}, code, _Pipeline)
        # Numba's symbols count compilations; object code is to be the same in whatever order kernels are compiled.
        own = result.fndesc
        text = code.text.replace(own.llvm_func_name, name).replace(own.env_name, f"{name}.environment")
        # Not Numba's own code generator, which obeys whatever Numba has read: settings that the cache does not know.
        module = llvm.parse_assembly(text)
        module.verify()
        passes = llvm.create_new_module_pass_manager()
        for step in LLVM_PASSES:
            getattr(passes, f"add_{step}_pass")()
        passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))
        called = {other.name for other in module.functions if other.is_declaration} - SYSTEM_CALLS
        foreign = sorted(name for name in called if not name.startswith("llvm."))
        if foreign:
            raise TypeError(f"kernel {name} calls {', '.join(foreign)}; it can call nothing but intrinsics")
        return name, machine.emit_object(module)


@cache
def _machine(wanted: target.Target | None) -> llvm.TargetMachine:
    return target.machine(wanted)


@contextmanager
def compile_settings() -> Iterator[None]:
    """Settings for a number of compilations; they are set back at the end.

    The threshold of the garbage collector is raised, since compilation allocates many objects and few cycles. Numba is
    told to compile, also where NUMBA_DISABLE_JIT is set to debug other code: else it has no functions to inline.
    """
    threshold, disabled = gc.get_threshold(), config.DISABLE_JIT
    config.DISABLE_JIT = False
    gc.set_threshold(max(threshold[0], 10_000) if threshold[0] else 0, *threshold[1:])  # 0 is off
    try:
        yield
    finally:
        gc.set_threshold(*threshold)
        config.DISABLE_JIT = disabled
