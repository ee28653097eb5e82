"""The machine that kernels are compiled for: vector lanes, registers, and the tile shapes that fit them."""

from __future__ import annotations

import functools
import json
import os
import platform
from dataclasses import asdict, dataclass

from ..kernels.jit import cache

FMA = """
define <16 x float> @f(<16 x float> %a, <16 x float> %b, <16 x float> %c) {
  %r = call <16 x float> @llvm.fma.v16f32(<16 x float> %a, <16 x float> %b, <16 x float> %c)
  ret <16 x float> %r
}
declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)
"""

# Most rows of a register tile by its number of vectors, for 32 and for 16 vector registers: accumulators, one
# vector of weights per column and one broadcast have to fit. Seven, not eight, of three vectors: that divides images of
# 14 and 28 lines, so there is one kernel fewer to compile.
MATMUL_ROWS = {32: {1: 14, 2: 14, 3: 7, 4: 6, 5: 5}, 16: {1: 12, 2: 6, 3: 4, 4: 2}}
# Rows of a depthwise tile by the weights of a line of taps, the window's size times the width of a group: sums, these
# weights, a pixel and what it is shuffled to have to fit. FEW_ROWS for lines of any other length.
DEPTHWISE_ROWS = {32: {3: 14, 5: 14, 6: 14, 7: 7, 12: 7}, 16: {3: 8, 5: 8, 6: 6, 7: 8}}
FEW_ROWS = 4
# Max pooling tiles: accumulators only.
POOL_ROWS = {32: {1: 8, 2: 8}, 16: {1: 8, 2: 6}}
# CPUs that run a 512-bit instruction as two halves: on them, half a vector is half the work.
HALVES = {"znver4"}
ATTENTION_TILE = {32: (6, 4), 16: (6, 2)}


@dataclass(frozen=True)
class Target:
    """cpu and features as LLVM names them; `lanes` float32 in a vector register, of which there are `registers`.

    `halves` tells that the time of an instruction on half a vector is half of that on a whole one.
    """

    cpu: str
    features: str
    lanes: int
    registers: int
    halves: bool = False


@functools.cache
def host() -> Target:
    """The machine this process compiles for, from the cache if LLVM was asked before."""
    known = cache.read("target")
    if known is not None:
        return Target(**json.loads(known))
    machine = _ask_llvm()
    cache.write("target", json.dumps(asdict(machine)).encode())
    return machine


def _ask_llvm() -> Target:
    """Numba's target, so NUMBA_CPU_NAME and NUMBA_CPU_FEATURES count here too.

    Where one of them is set, the code generator itself is asked for the width: a 16-lane multiply-add is compiled, and
    the registers that it comes out in are looked at. That holds for any CPU, by name or by features. Otherwise the
    host's own features tell, which needs no compilation.
    """
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    present = llvm.get_host_cpu_features()
    name, features = os.environ.get("NUMBA_CPU_NAME"), os.environ.get("NUMBA_CPU_FEATURES")
    cpu = llvm.get_host_cpu_name() if name in (None, "", "host") else name
    if not name and features is None and platform.machine().lower() in ("x86_64", "amd64"):
        lanes = 16 if present.get("avx512f") else 8 if present.get("avx") else 4
        return Target(cpu, present.flatten(), lanes, 32 if lanes == 16 else 16, lanes == 16 and cpu in HALVES)
    features = present.flatten() if features is None else features
    machine = llvm.Target.from_default_triple().create_target_machine(cpu=cpu, features=features, opt=2)
    assembly = machine.emit_assembly(llvm.parse_assembly(FMA))
    if "zmm" in assembly:
        return Target(cpu, features, 16, 32, cpu in HALVES)
    if "ymm" in assembly:
        return Target(cpu, features, 8, 16)
    return Target(cpu, features, 4, 16 if "xmm" in assembly else 32)
