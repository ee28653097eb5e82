"""Numba-compiled kernels for NHWC float32 activations. Knows no graph: addresses and int64 tables only.

KERNELS is the list of everything that is compiled. A *specification* names one variant: the kernel's name, then the
arguments of its `build` function, as in ("matmul", 14, 2, 16, "hard"). `library.addresses` turns specifications
into addresses of native code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import (
    attention,
    convolution,
    depthwise,
    elementwise,
    matmul,
    normalization,
    packing,
    peak,
    pooling,
    program,
    stem,
)
from . import gate_weights as gating
from . import strassen_sums as strassen

# Arguments of the functions that `build` returns.
STEP = 3  # (instruction, thread, threads): what a program's row calls
TILE = 8  # (region, x, w, bias, y, count, ahead, ahead_end): what the convolution's loop nest calls
LEAD = 6  # (team, table, own, steps, clocks, threads): what the calling thread enters
FOLLOW = 4  # (team, thread, threads, patience): what the other threads of a team enter


@dataclass(frozen=True)
class Kernel:
    """`build(*variant)` returns the Python function to compile, which takes `arity` int64 arguments.

    `fields` names the arguments that follow the kernel's address in an instruction, for what a program can call.
    """

    build: Callable
    arity: int
    fields: tuple[str, ...] = ()


KERNELS: dict[str, Kernel] = {
    "convolution": Kernel(convolution.build, STEP, convolution.FIELDS),
    "matmul": Kernel(matmul.build, TILE),
    "stem": Kernel(stem.build, TILE),
    "depthwise": Kernel(depthwise.build, STEP, depthwise.FIELDS),
    "max_pool": Kernel(pooling.build_max, TILE),
    "average_pool": Kernel(pooling.build_average, STEP, pooling.AVERAGE_FIELDS),
    "elementwise": Kernel(elementwise.build, STEP, elementwise.FIELDS),
    "strassen_sums": Kernel(strassen.build, STEP, strassen.FIELDS),
    "gating": Kernel(gating.build, STEP, gating.FIELDS),
    "layer_norm": Kernel(normalization.build, STEP, normalization.FIELDS),
    "attention": Kernel(attention.build, STEP, attention.FIELDS),
    "peak": Kernel(peak.build_peak, STEP, peak.PEAK_FIELDS),
    "read": Kernel(peak.build_read, STEP, peak.READ_FIELDS),
    "packing": Kernel(packing.build, STEP, packing.FIELDS),
    "bands": Kernel(program.build_own, STEP, program.OWN_FIELDS),
    "strassen": Kernel(program.build_own, STEP, program.OWN_FIELDS),
    "lead": Kernel(program.build_lead, LEAD),
    "follow": Kernel(program.build_follow, FOLLOW),
}


def kernel_name(specification: tuple) -> str:
    """("matmul", 14, 2, 16, "hard") -> "matmul_14x2x16_hard_f32"."""
    name, *variant = specification
    sizes = "x".join(str(part) for part in variant if isinstance(part, int))
    return "_".join([name, *filter(None, [sizes]), *(part for part in variant if isinstance(part, str)), "f32"])
