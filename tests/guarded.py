"""Networks of one operator or two, planned for any machine and run with guard bytes around all memory.

All memory that a run must not write holds a canary, and all memory that it must not read into a result holds NaN. Any
machine can be asked for, whatever the host: where its vectors are wider than the host's, LLVM makes several registers
of one.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from nanoinfer import runtime
from nanoinfer.graph import Builder, ops, passes
from nanoinfer.lowering import LOWERINGS
from nanoinfer.lowering.layout import ALIGNMENT, nhwc
from nanoinfer.lowering.packed import PackedWeights
from nanoinfer.machine import host
from nanoinfer.machine.tuning import TUNINGS
from nanoinfer.plan import make_plan, make_program, memory

HOST = host()


def _machine(lanes, registers, **changes):
    """The host with other vectors, planned as its machine is."""
    tuning = TUNINGS[lanes, registers, False]
    return replace(HOST, lanes=lanes, registers=registers, double_pumped=False, tuning=tuning, **changes)


WIDE, MIDDLE, NARROW, ARM = (_machine(*machine) for machine in ((16, 32), (8, 16), (4, 16), (4, 32)))
DOUBLE_PUMPED = replace(WIDE, double_pumped=True)
MACHINES = [pytest.param(machine, id=f"{machine.lanes}lanes") for machine in (WIDE, MIDDLE, NARROW)]
MACHINES.append(pytest.param(DOUBLE_PUMPED, id="double_pumped"))

CANARY = np.uint32(0x7FC0BEEF)  # a NaN
GUARD = 512  # bytes on each side of every buffer
ULP = 2.0**-23
ACTIVATIONS = [None, "relu", "relu6", "hard_swish", "scaled_hard_swish", "hard_sigmoid", "gelu"]


def tuned(machine, **changes):
    """A machine with other constants in its tuning."""
    return replace(machine, tuning=machine.tuning._replace(**changes))


def with_numerics(machine, **changes):
    """A machine with other constants among those that decide bits."""
    return tuned(machine, numerics=machine.tuning.numerics._replace(**changes))


def unfused(machine):
    """A machine that fuses no blocks."""
    return tuned(machine, min_intermediate_bytes=math.inf)


def fusing(machine, l2_bytes):
    """A machine that fuses every block that it can, in row bands for an L2 cache of this size."""
    always = tuned(machine, min_intermediate_bytes=0.0, weight_reread_cost=0.0)
    return replace(always, l2_bytes=l2_bytes, l3_bytes=1 << 25)


@dataclass
class Case:
    """A graph of one operator or two, its tensors and an input."""

    graph: object
    tensors: dict
    x: np.ndarray

    @property
    def output(self):
        return self.graph.outputs[0]

    def exact(self):
        """The output in float64."""
        return ops.evaluate(self.graph, self.tensors, self.x.astype(np.float64))[self.output]

    def shapes(self):
        """{value: shape}."""
        known = {name: tensor.shape for name, tensor in self.tensors.items()}
        return ops.infer_shapes(self.graph, self.x.shape, known)

    def program(self, machine, threads=1, packed=None):
        """The program of a plan for a machine, as a model would make it."""
        plan = make_plan(self.graph, self.tensors, self.x.shape, threads=threads, machine=machine)
        return make_program(plan, self.tensors, PackedWeights() if packed is None else packed)


def network(shape, add, *, seed=0, nhwc=False, count=None):
    """The operator that `add(builder, input)` appends, with random tensors, after `count` graph passes.

    A convolution reads its input in torch's layout if it can; `nhwc` keeps it from that. A strided one stays one
    operator: its pixels are not gathered.
    """
    generator = np.random.default_rng(seed)
    builder = Builder(shape[1] if len(shape) == 4 else shape[-1])
    value = add(builder, builder.input)
    tensors = {}
    for name, size in {**builder.parameters, **builder.buffers}.items():
        tensors[name] = generator.standard_normal(size, np.float32)
        if name.endswith("running_var"):
            tensors[name] = np.abs(tensors[name]) + np.float32(0.1)
    graph = builder.finish(value, value)
    for apply in passes.PASSES[:count]:
        if apply is not passes.gather_pixels:
            graph, tensors = apply(graph, tensors)
    if nhwc:
        graph = replace(graph, outputs=(*graph.outputs, graph.input))
    return Case(graph, tensors, generator.standard_normal(shape, np.float32))


def product(shape, channels, window=None, activation=None, residual=False, **options):
    """A linear layer, or with `window` a convolution; fused with a residual (the input itself) and an activation."""
    nhwc = options.pop("nhwc", False)

    def add(builder, x):
        y = builder.conv2d(x, "c", channels, window, **options) if window else builder.linear(x, "c", channels)
        y = builder.residual(y, x, "r") if residual else y
        return builder.activation(y, activation, "a") if activation else y

    case = network(shape, add, nhwc=nhwc)
    assert len(case.graph.nodes) == 1
    return case


def blank(record, **fields):
    """A record with some fields, and 0 in all others."""
    return record(*[0] * len(record._fields))._replace(**fields)


def guarded_empty(size):
    """A float32 array that is a piece of a larger buffer full of canaries."""
    buffer = np.full(size + (2 * GUARD + ALIGNMENT) // 4, CANARY, np.uint32)
    start = GUARD // 4 + (-(buffer.ctypes.data + GUARD) % ALIGNMENT) // 4
    return buffer[start : start + size].view(np.float32)


def guarded(values):
    """A copy of a float32 array with guard bytes around it."""
    copy = guarded_empty(values.size).reshape(values.shape)
    copy[...] = values
    return copy


def owner(array):
    """The whole buffer of words that an array is a piece of."""
    while array.base is not None:
        array = array.base
    return array.view(np.uint32)


def assert_guards_untouched(array):
    """Every word around a guarded array is still a canary, and every word of the array has been written."""
    whole = owner(array)
    assert (whole == CANARY).sum() == whole.size - array.size


class GuardedWeights(PackedWeights):
    def empty(self, size):
        return guarded_empty(size)


def run(case, machine=HOST, threads=1, x=None):
    """The output of a planned and compiled case; fails if anything but values and workspaces is written.

    Around and between all buffers, and in the channels that fill up the input's last vector, stands NaN.
    """
    x, packed = case.x if x is None else x, GuardedWeights()
    plan = make_plan(case.graph, case.tensors, x.shape, threads=threads, machine=machine)
    needs = memory.buffers(plan.graph, plan.shapes, machine, plan.threads, plan.reads_input_in_place)
    plan = replace(plan, memory=memory.lay_out(needs, plan.threads, guard=GUARD))
    program = make_program(plan, case.tensors, packed)
    source = guarded(x)
    arena = program.arena.view(np.uint32)
    arena[...] = CANARY
    program.bind_input(source)
    if not program.input_rows:
        program.pixels(program.input)[..., program.input.channels :] = np.nan
    before = arena.copy()
    runtime.team(threads).run(program.table)
    written = np.zeros((plan.shards, arena.size // plan.shards), bool)
    for start, size in _writable(plan, needs):
        written[:, start // 4 : (start + size) // 4] = True
    kept = ~written.ravel()
    np.testing.assert_array_equal(arena[kept], before[kept], "a kernel wrote outside of its output")
    for array in (source, *packed.values()):
        assert_guards_untouched(array)
    np.testing.assert_array_equal(source, x)
    return program.read_output(case.output)


def _writable(plan, needs):
    """(offset, bytes) of all that a shard may write."""
    for name, size in needs.values.items():
        if name != plan.graph.input:
            yield plan.memory.offsets[name], size
    for name, size in needs.workspaces.items():
        yield plan.memory.workspace_offsets[name], size
    yield plan.memory.thread_workspace_offset, plan.threads * needs.thread_workspace_bytes


def assert_near(case, bound, machine, threads=1):
    """|y - exact| <= bound, an array or a number."""
    exact = case.exact()
    with np.errstate(invalid="ignore"):
        error = np.abs(run(case, machine, threads) - exact)
    assert error.shape == exact.shape
    worst = np.argmax(error - bound) if np.isfinite(error).all() else np.argmax(~np.isfinite(error))
    assert (error <= bound).all(), f"off by {error.flat[worst]} at {np.unravel_index(worst, error.shape)}"


def product_bound(case):
    """A chain of n roundings is off by at most n u sum |x| |w|, u = ULP / 2; twice that for activations."""
    (node,) = case.graph.nodes
    weight = case.tensors[node.tensors["weight"]]
    plain = replace(node, attributes={**node.attributes, "activation": None})
    sizes = {name: np.abs(tensor) for name, tensor in case.tensors.items()}
    size = ops.apply(plain, [np.abs(case.x).astype(np.float64)] * len(node.inputs), sizes)
    shift = 3 if "hard" in str(node.attributes.get("activation")) else 0
    return (math.prod(weight.shape[1:]) + 4) * ULP * (size + shift)


def assert_product(case, machine, threads=1):
    assert_near(case, product_bound(case), machine, threads)


def chained(a, w, acc):
    """fma in float32 by way of float64, in which the product is exact."""
    return (a.astype(np.float64) * w.astype(np.float64) + acc.astype(np.float64)).astype(np.float32)


def value_bytes(shape, machine):
    """Memory of a value."""
    return nhwc(shape, machine).bytes


def operators():
    """Every operator that is lowered to steps by itself."""
    return [name for name, lowering in LOWERINGS.items() if lowering.lower and name != "fused"]
