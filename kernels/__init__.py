"""Numba-compiled kernels for NHWC float32 activations. They know no graph: addresses and int64 records only.

Read `convolution` (the loop nest around all micro-kernels, and what a region is), `matmul`, `stem` and `pooling` (its
micro-kernels), `depthwise`, `attention`, `normalization`, `elementwise`, `packing` (kernels of their own), `program`
(the table of instructions), `team` (the threads that interpret it). `simd` is the language that they are written in,
`jit` makes native code of them.

Each file states the formula, has it in NumPy (`reference`), makes calls to try it with (`example`), and has a `build`
function that returns the Python function to compile. A *spec* is a NamedTuple that names one variant: its fields are
constants of the compiled code, such as the shape of a register tile. Specs of two kernels can be equal as tuples, so
tables are by `kernel_name`. An *instruction* is a NamedTuple of int64
words that one call reads by name; a kernel is given the address of its row in a program, where a word for the kernel
comes first, and `instruction_reader` skips that word.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

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
    team,
)

# Arguments of the functions that `build` returns, by who calls them.
STEP = 3  # (address of its row, thread, threads): the interpreter of a program
TILE = 2  # (addresses of TileLoops and TileCall): the convolution's loop nest
LEADER = 6  # the calling thread, through ctypes
WORKER = 3  # a thread of its own, through ctypes


class Kernel(NamedTuple):
    """One row of KERNELS.

    `spec` is the class of its variants and `build(spec)` the Python function of one, which takes `arity` int64.
    `instruction` is what a program's row says to it. `reference` is its definition in NumPy, and
    `example(lanes, generator, check)` makes small calls of it, such as

        check(AveragePool(lanes), x.mean(1), x=x, x_image_stride=x.strides[0], ...)

    with the output that is expected and the fields of its records by name. Arrays stand for their addresses, and the
    output, y, is left out. `tolerance` is the largest error, relative to the largest value of the output; 0 asks for
    equal bits.
    """

    spec: type
    build: Callable
    arity: int
    instruction: type[NamedTuple] | None = None
    reference: Callable | None = None
    example: Callable | None = None
    tolerance: float = 1e-5


KERNELS: dict[str, Kernel] = {
    "convolution": Kernel(convolution.LoopNest, convolution.build, STEP, convolution.Instruction),
    "matmul": Kernel(matmul.Matmul, matmul.build, TILE, None, matmul.reference, matmul.example),
    "stem": Kernel(stem.Stem, stem.build, TILE, None, matmul.reference, stem.example),
    "max_pool": Kernel(
        pooling.MaxPool, pooling.build_max, TILE, None, pooling.max_reference, pooling.max_example, tolerance=0
    ),
    "depthwise": Kernel(
        depthwise.Depthwise, depthwise.build, STEP, depthwise.Instruction, depthwise.reference, depthwise.example
    ),
    "average_pool": Kernel(
        pooling.AveragePool, pooling.build_average, STEP, pooling.AverageInstruction, pooling.average_reference,
        pooling.average_example,
    ),
    "attention": Kernel(
        attention.Attention, attention.build, STEP, attention.Instruction, attention.reference, attention.example
    ),
    "layer_norm": Kernel(
        normalization.LayerNorm, normalization.build, STEP, normalization.Instruction, normalization.reference,
        normalization.example,
    ),
    "elementwise": Kernel(
        elementwise.Elementwise, elementwise.build, STEP, elementwise.Instruction, elementwise.reference,
        elementwise.example,
    ),
    "strassen_sums": Kernel(
        elementwise.StrassenSums, elementwise.build_sums, STEP, elementwise.SumsInstruction,
        elementwise.sums_reference, elementwise.sums_example, tolerance=0,
    ),
    "packing": Kernel(
        packing.Packing, packing.build, STEP, packing.Instruction, packing.reference, packing.example, tolerance=0
    ),
    "gate_weights": Kernel(
        packing.GateWeights, packing.build_gate_weights, STEP, packing.GateInstruction, packing.gate_reference,
        packing.gate_example, tolerance=0,
    ),
    "peak": Kernel(peak.Peak, peak.build_peak, STEP, peak.PeakInstruction),
    "read": Kernel(peak.Read, peak.build_read, STEP, peak.ReadInstruction),
    "thread_program": Kernel(
        program.ThreadProgram, program.build_thread_program, STEP, program.ThreadProgramInstruction
    ),
    "leader": Kernel(team.Leader, team.build_leader, LEADER),
    "worker": Kernel(team.Worker, team.build_worker, WORKER),
}  # fmt: skip
_NAMES = {kernel.spec: name for name, kernel in KERNELS.items()}


def family(spec) -> str:
    """The name in KERNELS that a spec belongs to."""
    return _NAMES[type(spec)]


@functools.lru_cache(maxsize=None, typed=True)  # by the type of the spec, too
def kernel_name(spec) -> str:
    """Matmul(14, 2, 16, "piecewise", "taps") -> "matmul_14x2x16_piecewise_taps_f32"."""
    sizes = "x".join(str(field) for field in spec if isinstance(field, int))
    words = (field for field in spec if isinstance(field, str))
    return "_".join([family(spec), *filter(None, [sizes]), *words, "f32"])
