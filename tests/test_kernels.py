"""Every kernel at 16, 8 and 4 lanes: against its plain meaning in float64, and bit for bit against itself.

Networks of one operator are planned for machines of each width, whatever the host, with sizes around the tile. All
memory that a run may not write holds a canary, and all memory that it may not read into a result holds NaN.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from nanoinfer.kernels import (
    KERNELS,
    attention,
    convolution,
    depthwise,
    elementwise,
    matmul,
    normalization,
    packing,
    pooling,
    program,
)
from nanoinfer.kernels import gate_weights as gating
from nanoinfer.kernels import strassen_sums as kernels_strassen
from nanoinfer.kernels.jit import library
from nanoinfer.kernels.simd import activation

from nanoinfer import runtime
from nanoinfer.graph import Builder, ops, passes
from nanoinfer.lowering import fusion as bands
from nanoinfer.lowering import layout, strassen
from nanoinfer.lowering import loop_nest as products
from nanoinfer.machine import target
from nanoinfer.plan import memory
from nanoinfer.plan import program as plan

HOST = target.host()
WIDE, MIDDLE, NARROW, ARM = (
    replace(HOST, lanes=lanes, registers=registers, halves=False)
    for lanes, registers in ((16, 32), (8, 16), (4, 16), (4, 32))
)
HALVED = replace(WIDE, halves=True)
X86 = [pytest.param(machine, id=f"{machine.lanes}lanes") for machine in (WIDE, MIDDLE, NARROW)]
X86.append(pytest.param(HALVED, id="halves"))
CANARY = np.uint32(0x7FC0BEEF)  # a NaN
GUARD = 512  # bytes on each side of every buffer
ULP = 2.0**-23
KINDS = [None, "relu", "relu6", "hard_swish", "scaled_hard_swish", "hard_sigmoid", "gelu"]


@dataclass
class Network:
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


def network(shape, add, *, seed=0, nhwc=False, count=None):
    """The operator that `add(builder, input)` appends, with random tensors, after `count` graph passes.

    A convolution reads its input in torch's layout if it can; `nhwc` keeps it from that.
    """
    generator = np.random.default_rng(seed)
    builder = Builder(shape[1] if len(shape) == 4 else shape[-1])
    value = add(builder, builder.input)
    tensors = {}
    for name, size in {**builder.parameters, **builder.buffers}.items():
        tensors[name] = generator.standard_normal(size, np.float32)
        if name.endswith("running_var"):
            tensors[name] = np.abs(tensors[name]) + np.float32(0.1)
    graph, tensors = passes.optimise(builder.finish(value, value), tensors, count)
    if nhwc:
        graph = replace(graph, outputs=(*graph.outputs, graph.input))
    return Network(graph, tensors, generator.standard_normal(shape, np.float32))


def product(shape, channels, kernel=None, kind=None, residual=False, **options):
    """A linear layer, or with `kernel` a convolution; fused with a residual (the input itself) and an activation."""
    nhwc = options.pop("nhwc", False)

    def add(builder, x):
        y = builder.conv2d(x, "c", channels, kernel, **options) if kernel else builder.linear(x, "c", channels)
        y = builder.residual(y, x, "r") if residual else y
        return builder.activation(y, kind, "a") if kind else y

    result = network(shape, add, nhwc=nhwc)
    assert len(result.graph.nodes) == 1
    return result


def guarded_empty(size):
    """In place of layout.aligned_empty: a piece of a larger buffer full of canaries."""
    buffer = np.full(size + (2 * GUARD + memory.ALIGNMENT) // 4, CANARY, np.uint32)
    start = GUARD // 4 + (-(buffer.ctypes.data + GUARD) % memory.ALIGNMENT) // 4
    return buffer[start : start + size].view(np.float32)


def owner(array):
    """The whole buffer of words that an array is a piece of."""
    while array.base is not None:
        array = array.base
    return array.view(np.uint32)


def run(net, machine=HOST, threads=1, x=None):
    """The output of a planned and compiled network; fails if anything but the output and scratch memory is written.

    Around and between all buffers, and in the channels that fill up the input's last vector, stands NaN.
    """
    x = net.x if x is None else x
    buffers, packed = {}, layout.Packed()

    def spread(sizes, lifetimes, place=memory.place):
        offsets, total = place({name: size + 2 * GUARD for name, size in sizes.items()}, lifetimes)
        buffers.update({name: (offsets[name] + GUARD, sizes[name]) for name in sizes})
        return {name: start for name, (start, _) in buffers.items()}, -(-total // 4) * 4

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "aligned_empty", guarded_empty)
        patch.setattr(packed, "empty", guarded_empty)
        patch.setattr(memory, "place", spread)
        planned = plan.make_program(net.graph, net.tensors, x.shape, threads, packed, machine=machine)
    source = guarded_empty(x.size).reshape(x.shape)
    source[...] = x
    planned.take(source)
    arena, first = owner(planned.arena), planned.arena.ctypes.data
    if not planned.reads_input:
        planned._view(planned.input)[..., planned.input.channels :] = np.nan
    before = arena.copy()
    runtime.team(threads).run(planned.table)
    written = np.zeros(arena.size, bool)
    for name, (start, size) in buffers.items():
        if name != net.graph.input:
            for way in range(planned.ways):
                at = start + first - arena.ctypes.data + way * planned.arena.nbytes // planned.ways
                written[at // 4 : (at + size) // 4] = True
    np.testing.assert_array_equal(arena[~written], before[~written], "a kernel wrote outside of its output")
    for array in (source, *packed.values()):
        assert (owner(array) == CANARY).sum() == owner(array).size - array.size
    np.testing.assert_array_equal(source, x)
    return planned.give(net.output)


def assert_near(net, bound, machine, threads=1):
    """|y - exact| <= bound, an array or a number."""
    exact = net.exact()
    with np.errstate(invalid="ignore"):
        error = np.abs(run(net, machine, threads) - exact)
    assert error.shape == exact.shape
    worst = np.argmax(error - bound) if np.isfinite(error).all() else np.argmax(~np.isfinite(error))
    assert (error <= bound).all(), f"off by {error.flat[worst]} at {np.unravel_index(worst, error.shape)}"


def product_bound(net):
    """A chain of n roundings is off by at most n u sum |x| |w|, u = ULP / 2; twice that for activations."""
    (node,) = net.graph.nodes
    weight = net.tensors[node.tensors["weight"]]
    plain = replace(node, attributes={**node.attributes, "activation": None})
    sizes = {name: np.abs(tensor) for name, tensor in net.tensors.items()}
    size = ops.apply(plain, [np.abs(net.x).astype(np.float64)] * len(node.inputs), sizes)
    shift = 3 if "hard" in str(node.attributes.get("activation")) else 0
    return (math.prod(weight.shape[1:]) + 4) * ULP * (size + shift)


def assert_product(net, machine, threads=1):
    assert_near(net, product_bound(net), machine, threads)


# Products


@pytest.mark.parametrize("k", [1, 3, 16, 17])
@pytest.mark.parametrize("machine", X86)
def test_matmul_around_its_tile(machine, k):
    rows, width = target.MATMUL_ROWS[machine.registers][2], 2 * machine.lanes
    for pixels in (rows - 1, rows, rows + 1):
        for channels in (width - 1, width, width + 1):
            assert_product(product((pixels, k), channels), machine)


@pytest.mark.parametrize("machine", X86)
def test_matmul_of_one_vector_and_of_many(machine):
    for channels in (
        1,
        machine.lanes - 1,
        machine.lanes,
        9 * machine.lanes // 2,
        5 * machine.lanes,
        6 * machine.lanes + 1,
    ):
        assert_product(product((2, 5, 7), channels), machine, 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("machine", X86)
def test_matmul_activations(machine, kind):
    width = 2 * machine.lanes
    assert_product(product((1, 4, width), width, kind=kind), machine)
    assert_product(product((2, 2, width), width, kind=kind, residual=True), machine)


# (kernel, stride, padding, height, width): borders on all sides and on some, images smaller than the window
WINDOWS = [
    (1, 1, 0, 7, 4),
    (1, 2, 0, 7, 4),
    (1, 1, 1, 2, 2),
    (3, 1, 1, 4, 6),
    (3, 2, 1, 7, 9),
    (3, 2, 0, 7, 9),
    (3, 1, 1, 1, 1),
    (5, 1, 2, 8, 4),
    (5, 2, 2, 3, 2),
    (7, 2, 3, 9, 5),
    (7, 1, 3, 2, 3),
    (4, 4, 0, 8, 12),
]


def window_id(case):
    return "k{}s{}p{}-{}x{}".format(*case)


@pytest.mark.parametrize("case", WINDOWS, ids=window_id)
@pytest.mark.parametrize("machine", X86)
def test_dense_convolution(machine, case):
    kernel, stride, padding, *size = case
    for nhwc, batch, threads in ((False, 1, 1), (True, 3, 2)):
        net = product(
            (batch, 3, *size), 2 * machine.lanes - 1, kernel, stride=stride, padding=padding, bias=nhwc, nhwc=nhwc
        )
        assert_product(net, machine, threads)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("size", [(3, 112), (7, 111), (3, 30)], ids=str)
def test_border_columns_of_a_stem_take_no_kernels_of_their_own(size, threads):
    kernel, side = size
    net = product((1, 3, side, side), 32, kernel, stride=2)
    (step,) = plan.make_program(net.graph, net.tensors, net.x.shape, threads, layout.Packed(), machine=WIDE).steps
    columns = [region for region in step.fields["regions"] if region["taps_x"] < kernel]
    most = target.MATMUL_ROWS[WIDE.registers][2]
    assert columns and {region["tile"][1] for region in columns} <= {most, 1}
    assert not any(region["edge"] for region in columns)


@pytest.mark.parametrize("size", [(9, 14), (31, 6), (3, 40)], ids=str)
@pytest.mark.parametrize("machine", X86)
def test_a_stem_is_one_chain_of_multiply_adds(machine, size):
    """Bias, then taps by row and column, then channels: those bits exactly. The tall and the wide, in torch's layout
    and in ours, take the same kernels but for the number of rows."""
    for nhwc, steps in ((False, {8}), (True, {8 * machine.lanes})):
        net = product((2, 3, *size), 20, 3, stride=2, bias=True, nhwc=nhwc)
        x = np.pad(net.x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        high, wide = ((side + 1) // 2 for side in size)
        y, weight = net.tensors["c.bias"][:, None, None], net.tensors["c.weight"]
        for ky, kx, k in np.ndindex(3, 3, 3):
            pixels = x[:, k, None, ky : ky + 2 * high : 2, kx : kx + 2 * wide : 2][..., :high, :wide]
            y = chained(pixels, weight[:, k, ky, kx, None, None], y)
        np.testing.assert_array_equal(run(net, machine, 2), y)
        planned = plan.make_program(net.graph, net.tensors, net.x.shape, 2, layout.Packed(), machine=machine)
        regions = [region for step in planned.steps for region in step.fields["regions"]]
        tiles = [region["tile"] for region in regions if region["taps_x"] == 3]
        assert {tile[0] for tile in tiles} == {"stem"} and {tile[4] for tile in tiles} == steps


@pytest.mark.parametrize("machine", X86)
def test_a_patch_is_one_chain_of_multiply_adds(machine):
    """Bias, then channels, then a patch's pixels by row and column: those bits exactly, in torch's layout and ours."""
    for nhwc in (False, True):
        net = product((2, 3, 9, 13), 20, 4, stride=4, padding=0, bias=True, nhwc=nhwc)
        y, weight = net.tensors["c.bias"][:, None, None], net.tensors["c.weight"]
        for k, ky, kx in np.ndindex(3, 4, 4):
            y = chained(net.x[:, k, None, ky:8:4, kx:12:4], weight[:, k, ky, kx, None, None], y)
        np.testing.assert_array_equal(run(net, machine, 2), y)


@pytest.mark.parametrize("case", [WINDOWS[n] for n in (1, 2, 4, 6, 7, 8, 9)], ids=window_id)
@pytest.mark.parametrize("machine", X86)
def test_depthwise_convolution(machine, case):
    kernel, stride, padding, *size = case
    for batch, channels, threads in ((1, machine.lanes - 1, 1), (3, 2 * machine.lanes, 2), (1, 3 * machine.lanes, 3)):
        options = dict(stride=stride, padding=padding, groups=channels, bias=True)
        assert_product(product((batch, channels, *size), channels, kernel, **options), machine, threads)


@pytest.mark.parametrize("name", ["depthwise", "groups4", "groups8"])
def test_depthwise_bits_do_not_depend_on_what_threads_split(name, monkeypatch):
    """Panels, or where a thread's part would not stay in cache, bands of lines."""
    net = NETWORKS[name]
    expected = run(net, WIDE)
    for most in (1, 2000, 1 << 20):
        monkeypatch.setattr(products, "CHUNK_BYTES", most)
        for machine, threads in ((WIDE, 1), (WIDE, 2), (MIDDLE, 3), (NARROW, 5)):
            np.testing.assert_array_equal(run(net, machine, threads), expected)
            np.testing.assert_array_equal(run(net, machine, threads, net.x[:1])[0], expected[0])


def test_few_panels_of_a_depthwise_convolution_leave_no_thread_idle():
    for channels, threads, by_panel in ((32, 2, True), (16, 2, False), (48, 2, False), (144, 2, True), (192, 8, False)):
        net = product((1, channels, 16, 16), channels, 3, groups=channels)
        (step,) = plan.make_program(net.graph, net.tensors, net.x.shape, threads, layout.Packed(), machine=WIDE).steps
        assert (step.fields["band"] == 16) == by_panel
        units = -(-16 // step.fields["band"]) * step.fields["panels"]
        assert -(-units // threads) * threads <= 1.125 * units


@pytest.mark.parametrize("machine", X86)
def test_depthwise_around_its_tile(machine):
    rows = target.DEPTHWISE_ROWS[machine.registers][3]
    for pixels in (rows - 1, rows, rows + 1):
        for channels in (machine.lanes - 1, machine.lanes, machine.lanes + 1):
            options = dict(groups=channels, residual=True, padding=1)
            assert_product(product((1, channels, 3, pixels), channels, 3, **options), machine)
    channels = 2 * machine.lanes
    for kind in ("relu6", "hard_swish"):
        assert_product(product((2, channels, 3, 3), channels, 3, kind, groups=channels), machine)


@pytest.mark.parametrize("machine", X86)
def test_depthwise_is_one_chain_of_multiply_adds(machine):
    """Bias, then taps by row and column, then the residual: those bits exactly."""
    net = product((2, 20, 5, 7), 20, 3, groups=20, residual=True, bias=True)
    x = np.pad(net.x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    y = np.broadcast_to(net.tensors["c.bias"][:, None, None], net.x.shape)
    for ky in range(3):
        for kx in range(3):
            y = chained(x[:, :, ky : ky + 5, kx : kx + 7], net.tensors["c.weight"][:, 0, ky, kx, None, None], y)
    np.testing.assert_array_equal(run(net, machine, 2), y + net.x)


@pytest.mark.parametrize("width", [2, 4, 8])
@pytest.mark.parametrize("machine", X86)
def test_narrow_groups_are_one_chain_of_multiply_adds(machine, width):
    """In step k an output meets input channel k ^ (its own place in the group): those bits exactly."""
    channels = 24
    net = product((1, channels, 3, 5), channels, 3, groups=channels // width, bias=True)
    x = np.pad(net.x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    y = np.broadcast_to(net.tensors["c.bias"][:, None, None], net.x.shape)
    out = np.arange(channels)
    for ky in range(3):
        for kx in range(3):
            for k in range(width):
                met = k ^ out % width
                y = chained(
                    x[:, out // width * width + met, ky : ky + 3, kx : kx + 5],
                    net.tensors["c.weight"][out, met, ky, kx, None, None],
                    y,
                )
    np.testing.assert_array_equal(run(net, machine), y)


@pytest.mark.parametrize("per_group", [4, 8, 16, 32])
@pytest.mark.parametrize("machine", X86)
def test_grouped_convolution(machine, per_group):
    """Groups narrower than a vector, of one vector and of two; also as many channels as leave a vector half empty."""
    rows = target.DEPTHWISE_ROWS[machine.registers].get(3 * per_group, target.FEW_ROWS)
    for groups, size in ((3, (4, rows - 1)), (32 // per_group, (4, rows + 1)), (5, (rows + 2, 4))):
        channels = groups * per_group
        for stride in (1, 2):
            options = dict(stride=stride, groups=groups, residual=stride == 1, bias=True)
            assert_product(product((2, channels, *size), channels, 3, **options), machine, stride)


@pytest.mark.parametrize("machine", X86)
def test_groups_with_different_inputs_and_outputs(machine):
    for inputs, outputs in ((6, 32), (32, 64), (2, 96)):
        assert_product(product((2, inputs, 4, 6), outputs, 3, groups=2), machine, 2)
    with pytest.raises(ValueError, match="groups of 3 input and 5 output"):
        run(product((1, 6, 4, 4), 10, 3, groups=2), machine)


@pytest.mark.parametrize("machine", X86)
def test_max_pool_is_exact(machine):
    for kernel, stride, padding, *size in ((3, 2, 1, 7, 9), (2, 2, 0, 6, 5), (3, 1, 1, 1, 2), (3, 2, 1, 2, 12)):
        for batch, channels in ((1, machine.lanes - 1), (3, 2 * machine.lanes), (1, 3 * machine.lanes + 1)):
            net = network(
                (batch, channels, *size),
                lambda b, x, options=(kernel, stride, padding): b.max_pool2d(x, "p", *options),
            )
            net.x.flat[::7] = -np.inf
            np.testing.assert_array_equal(run(net, machine, batch), net.exact())
    wide = network((1, 50 * machine.lanes, 2, 2), lambda b, x: b.max_pool2d(x, "p", 2, 2, 0))
    np.testing.assert_array_equal(run(wide, machine), wide.exact())


def test_residual_that_is_a_view():
    """A token of each image is (tokens * channels) floats from the next image's; the sum that it meets is dense."""

    def add(builder, x):
        token = builder.select_token(builder.activation(x, "relu", "a"), 0, "t")
        return builder.residual(builder.linear(token, "l", 32), token, "r")

    net = network((3, 5, 32), add)
    np.testing.assert_allclose(run(net), net.exact(), 1e-4, 1e-4)


# Reductions


@pytest.mark.parametrize("pixels", [1, 15, 16, 17, 35, 49])
@pytest.mark.parametrize("machine", X86)
def test_average_pool(machine, pixels):
    for channels in (machine.lanes - 1, machine.lanes, 2 * machine.lanes + 1):
        net = network((3, channels, 1, pixels), lambda b, x: b.global_average_pool(x, "p"))
        size = np.abs(net.x).mean((2, 3), keepdims=True, dtype=np.float64)
        assert_near(net, (pixels // 16 + 4 + pixels % 16 + 2) * ULP * size, machine, threads=2)


@pytest.mark.parametrize("channels", [16, 48, 768])
@pytest.mark.parametrize("machine", X86)
def test_layer_norm(machine, channels):
    for rows, offset in ((1, 0), (3, 5)):
        net = network((2, rows, channels), lambda b, x: b.layer_norm(x, "n", 1e-6))
        net.x += np.float32(offset)
        x = net.x.astype(np.float64)
        mean, deviation = x.mean(-1, keepdims=True), x.std(-1, keepdims=True)
        shift = np.abs(x).mean(-1, keepdims=True) / deviation  # a mean off by some ulp of the mean, in deviations
        size = (1 + shift + np.abs(x - mean) / deviation) * np.abs(net.tensors["n.weight"])
        bound = (channels // 16 + 12) * ULP * (size + np.abs(net.tensors["n.bias"]))
        assert_near(net, bound, machine, threads=2)


def test_layer_norm_refuses_other_widths():
    with pytest.raises(ValueError, match="multiple of 16"):
        run(network((1, 2, 24), lambda b, x: b.layer_norm(x, "n")))


@pytest.mark.parametrize("case", [(1, 16), (5, 64), (6, 64), (7, 64), (50, 48), (17, 32)], ids=str)
@pytest.mark.parametrize("machine", X86)
def test_attention(machine, case):
    assert_attention(machine, *case)


@pytest.mark.parametrize("depth", [4, 8, 12, 20])
def test_attention_of_shallow_heads(depth):
    for machine in (NARROW, ARM):
        assert_attention(machine, 17, depth)
    with pytest.raises(ValueError, match="no multiple of 16 lanes"):
        assert_attention(WIDE, 17, depth)


def assert_attention(machine, tokens, depth, heads=3):
    net = network((2, tokens, 3 * heads * depth), lambda b, x: b.attention(x, heads, "a"))
    q, k, v = net.x.astype(np.float64).reshape(2, tokens, 3, heads, depth).transpose(2, 0, 3, 1, 4)
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(depth)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    score = (depth + 4) * ULP * (np.abs(q) @ np.abs(k).swapaxes(-1, -2)).max(-1, keepdims=True) / np.sqrt(depth)
    bound = (2 * score + (tokens + tokens / 16 + 16) * ULP) * (weights @ np.abs(v))
    assert_near(net, bound.transpose(0, 2, 1, 3).reshape(2, tokens, -1), machine, threads=2)


# Element by element


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("machine", X86)
def test_elementwise(machine, kind):
    def activate(builder, value):
        return builder.activation(value, kind, "a") if kind else value

    for channels in (machine.lanes - 1, machine.lanes, 2 * machine.lanes + 1):
        shape = (3, channels, 3, 5)
        nets = [network(shape, lambda b, x: activate(b, b.residual(x, x, "r")))]
        if kind:
            nets.append(network(shape, lambda b, x: activate(b, x)))
            nets[-1].x *= np.float32(4)
        else:
            nets.append(network(shape, lambda b, x: b.batch_norm(x, "n")))
            nets.append(network(shape, lambda b, x: b.scale(x, b.global_average_pool(x, "p"), "s")))
            nets.append(network((3, 20, channels), lambda b, x: b.activation(x, "relu", "a")))
        for net in nets:
            assert_near(net, 24 * ULP * (1 + np.abs(net.exact())) * 4, machine, threads=2)


@pytest.mark.parametrize("machine", X86)
def test_tokens(machine):
    def add(builder, x):
        position = builder.parameter("position", 1, 1 + 9, x.channels)
        return builder.tokens(x, builder.parameter("first", 1, 1, x.channels), position, "t")

    for channels in (16, 2 * machine.lanes + 1):
        net = network((3, channels, 3, 3), add)
        assert_near(net, ULP * (1 + np.abs(net.exact())), machine, threads=2)


# Micro-kernels by hand: strides that no plan makes, and the contract on the order of operations


def record(**fields):
    """A region record of the convolution's loop nest."""
    return np.array([fields.get(name, 0) for name in convolution.REGION], np.int64)


def chained(a, w, acc):
    """fma in float32 by way of float64, in which the product is exact."""
    return (a.astype(np.float64) * w.astype(np.float64) + acc.astype(np.float64)).astype(np.float32)


@pytest.mark.parametrize("lanes", [16, 8, 4])
def test_a_tile_is_chains_of_multiply_adds(lanes):
    """Bias, then taps by row and column, then depth in blocks, then the residual: those bits exactly, in any tile."""
    rows, vectors, count, taps_y, taps_x, skipped = 3, 2, 2, 2, 3, 2
    depth, block, width = 5, 3, vectors * lanes
    x_step, tap_y, tap_x, x_depth, y_step = 131, 67, 41, 7, width + 3  # in floats
    generator = np.random.default_rng(lanes)
    x = guarded_empty(1200)
    x[...] = generator.standard_normal(x.size, np.float32)
    w = guarded_empty((taps_y * (taps_x + skipped)) * depth * width)
    w[...] = generator.standard_normal(w.size, np.float32)
    bias, residual = guarded_empty(width), guarded_empty(count * rows * y_step)
    bias[...] = generator.standard_normal(width, np.float32)
    residual[...] = generator.standard_normal(residual.size, np.float32)
    y = guarded_empty(count * rows * y_step)

    region = record(
        x_step=4 * x_step, y_step=4 * y_step, taps_y=taps_y, taps_x=taps_x, x_tap_y=4 * tap_y, x_tap_x=4 * tap_x,
        depth=depth, sum_block=block, x_depth=4 * x_depth, w_skip=4 * skipped * depth * width,
        residual=residual.ctypes.data - y.ctypes.data, **activation.fields("relu6"),
    )  # fmt: skip
    tile = library.function(("matmul", rows, vectors, lanes, "hard", "taps"))
    tile(region.ctypes.data, *(array.ctypes.data for array in (x, w, bias, y)), count, 0, 0)

    weights = w.reshape(taps_y, taps_x + skipped, depth, width)
    expected = np.full((count * rows, y_step), CANARY, np.uint32).view(np.float32)
    for row in range(count * rows):
        acc = bias.copy()
        for ky in range(taps_y):
            for kx in range(taps_x):
                first = row * x_step + ky * tap_y + kx * tap_x
                for start in range(0, depth, block):
                    part = np.zeros(width, np.float32) if start else acc
                    for k in range(start, min(start + block, depth)):
                        part = chained(x[first + k * x_depth], weights[ky, kx, k], part)
                    acc = part + acc if start else part
        acc = acc + residual[row * y_step : row * y_step + width]
        expected[row, :width] = np.clip(acc, np.float32(0), np.float32(6))
    np.testing.assert_array_equal(y.view(np.uint32), expected.ravel().view(np.uint32))
    assert (owner(y) == CANARY).sum() == owner(y).size - count * rows * width


@pytest.mark.parametrize("lanes", [16, 8, 4])
def test_max_pool_tile(lanes):
    rows, vectors, width = 3, 2, 2 * lanes
    x, y = guarded_empty(700), guarded_empty(2 * rows * (width + 1))
    x[...] = np.random.default_rng(0).standard_normal(x.size, np.float32)
    region = record(x_step=4 * 71, y_step=4 * (width + 1), taps_y=2, taps_x=2, x_tap_y=4 * 150, x_tap_x=4 * 33)
    tile = library.function(("max_pool", rows, vectors, lanes))
    tile(region.ctypes.data, x.ctypes.data, 0, 0, y.ctypes.data, 2, 0, 0)
    for row in range(2 * rows):
        taps = [x[row * 71 + tap : row * 71 + tap + width] for tap in (0, 33, 150, 183)]
        np.testing.assert_array_equal(y[row * (width + 1) :][:width], np.max(taps, 0))
    assert (owner(y) == CANARY).sum() == owner(y).size - 2 * rows * width


def test_loop_nest_by_hand():
    """Two images, two panels, lines of two tiles and an edge; threads' shares make up the whole, each once."""
    lanes, rows, length, lines, k = 16, 2, 5, 3, 3
    generator = np.random.default_rng(0)
    x = generator.integers(-3, 4, (2, lines, length, k)).astype(np.float32)
    weight = generator.integers(-3, 4, (2 * lanes, k, 1, 1)).astype(np.float32)
    packed, bias = packing.oracle(weight, lanes), np.arange(2 * lanes, dtype=np.float32)
    y = guarded_empty(2 * lines * length * 2 * lanes)
    pixel, row = 4 * 2 * lanes, 4 * k
    tiles = [
        library.addresses([spec])[spec] for spec in (("matmul", n, 1, lanes, "hard", "pointwise") for n in (rows, 1))
    ]
    region = record(
        tile=tiles[0], edge=tiles[1], line_tiles=3, full_tiles=2, lines=lines, x_line=length * row, x_tile=rows * row,
        y_line=length * pixel, y_tile=rows * pixel, x_step=row, y_step=pixel, taps_y=1, taps_x=1, depth=k, x_depth=4,
        sum_block=k, **activation.fields(None),
    )  # fmt: skip
    exact = convolution.oracle(x, weight, bias, 1, 0, 1).ravel()
    nest = library.function(("convolution",))
    for split_panels in (0, 1):
        fields = dict(
            x=x.ctypes.data, x_image=lines * length * row, x_group=0, w=packed.ctypes.data, w_image=0,
            w_panel=packed[0].nbytes,
            bias=bias.ctypes.data, y=y.ctypes.data, y_image=lines * length * pixel, panel_bytes=4 * lanes, images=2,
            panels=2, group_panels=2, regions=region.ctypes.data, region_count=1, split_panels=split_panels, chunk=2,
            later=0, later_bytes=0, after=packed.ctypes.data, after_thread=0,
        )  # fmt: skip
        instruction = np.array([0, *(fields[name] for name in KERNELS["convolution"].fields)], np.int64)
        for threads in (1, 3, 7):
            written = 0
            for thread in range(threads):
                y.view(np.uint32)[...] = CANARY
                nest(instruction.ctypes.data, thread, threads)
                mine = y.view(np.uint32) != CANARY
                np.testing.assert_array_equal(y[mine], exact[mine])
                written = written + mine
            assert (written == 1).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_program_meets_between_steps(threads):
    """Each step reads what its neighbour wrote: y[p] = x[p + 1] + 1, 60 times over; then the time stamps."""
    steps, pixels = 60, 40
    kernel, fields = ("elementwise", 16, "hard"), KERNELS["elementwise"].fields
    table = np.zeros((steps, program.WORDS), np.int64)
    values, one = np.zeros((steps + 1, pixels + steps, 16), np.float32), np.ones(16, np.float32)
    values[0] = np.arange(pixels + steps)[:, None]
    for step in range(steps):
        row = dict(
            x=values[step, 1:].ctypes.data, x_pixel=64, shift=one.ctypes.data, y=values[step + 1].ctypes.data,
            y_pixel=64, images=1, pixels=pixels + steps - step - 1, vectors=1, **activation.fields(None),
        )  # fmt: skip
        table[step, 0] = library.addresses([kernel])[kernel]
        table[step, 1 : 1 + len(fields)] = [row.get(name, 0) for name in fields]
        table[step, -1] = 1
    team = runtime.team(threads)
    for _ in range(20):
        values[1:] = np.nan
        team.run(table)
        np.testing.assert_array_equal(values[-1, :pixels, 0], np.arange(pixels) + 2 * steps)
    clocks = np.zeros((threads, steps, program.CLOCKS), np.int64)
    team.run(table, clocks)
    assert (np.diff(clocks[0].ravel()) >= 0).all() and clocks[0, 0, 0] > 0


@pytest.mark.parametrize("shape", [(5, 3, 1, 1), (16, 1, 3, 3), (33, 7, 3, 2), (48, 16, 1, 1)], ids=str)
@pytest.mark.parametrize("width", [4, 16, 48])
def test_packing(shape, width):
    weight = np.random.default_rng(0).standard_normal(shape, np.float32)
    exact = packing.oracle(weight, width)
    assert packing.packed_size(weight.shape, width) == exact.size
    for threads in (1, 3):
        assert_packed(exact, threads, weight, shape[0], shape[1], shape[2] * shape[3], width)


@pytest.mark.parametrize("counts", [part.quarters for part in strassen.SEVEN], ids=str)
def test_packing_of_a_sum_of_quarters(counts):
    weight = np.random.default_rng(0).standard_normal((32, 10, 1, 1), np.float32)
    exact = packing.oracle(packing.sum_of_quarters(weight, counts), 8)
    for threads in (1, 3):
        assert_packed(exact, threads, weight, 16, 5, 1, 8, 1, *counts)


def assert_packed(exact, threads, weight, channels, depth, taps, width, quarters=0, *counts):
    packed, counts = guarded_empty(exact.size), counts or (1, 0, 0, 0)
    fields = (weight.strides[0], channels, depth, taps, width, packed.ctypes.data, quarters, *counts)
    row = np.array([0, weight.ctypes.data, *fields], np.int64)
    for thread in range(threads):
        library.function(("packing",))(row.ctypes.data, thread, threads)
    np.testing.assert_array_equal(packed, exact.ravel())
    assert (owner(packed) == CANARY).sum() == owner(packed).size - packed.size


@pytest.mark.parametrize("machine", X86)
@pytest.mark.parametrize("name", ["gated weights", "gated input"])
def test_gates_are_folded_into_the_product(name, machine):
    net = NETWORKS[name]
    assert [node.op for node in net.graph.nodes] == ["global_average_pool", "activation", "conv2d"]
    np.testing.assert_allclose(run(net, machine, 2), net.exact(), 1e-5, 1e-5)


@pytest.mark.parametrize("lanes", [16, 8, 4])
def test_gating(lanes):
    generator, panels, depth, vectors = np.random.default_rng(0), 3, 5, 2
    packed = generator.standard_normal((panels, depth, vectors * lanes), np.float32)
    gate = generator.standard_normal((2, depth + 3), np.float32)
    y = guarded_empty(2 * packed.size)
    fields = dict(packed=packed.ctypes.data, gate=gate.ctypes.data, gate_image=gate.strides[0], y=y.ctypes.data,
                  images=2, rows=panels * depth, depth=depth, vectors=vectors)  # fmt: skip
    row = np.array([0, *(fields[name] for name in KERNELS["gating"].fields)], np.int64)
    for thread in range(3):
        library.function(("gating", lanes))(row.ctypes.data, thread, 3)
    np.testing.assert_array_equal(y, gating.oracle(packed, gate[:, :depth]).ravel())
    assert (owner(y) == CANARY).sum() == owner(y).size - y.size


@pytest.mark.parametrize("channels", [4, 64])
def test_the_input_of_the_network_gated(channels):
    def add(builder, x):
        gate = builder.conv2d(builder.global_average_pool(builder.conv2d(x, "c", 16, 1), "m"), "f", 16, 1)
        return builder.conv2d(builder.scale(x, builder.activation(gate, "hard_sigmoid", "h"), "s"), "p", channels, 1)

    net = network((2, 16, 5, 5), add)
    np.testing.assert_allclose(run(net), net.exact(), atol=1e-4)


# Strassen's scheme


@pytest.mark.parametrize("lanes", [16, 8, 4])
@pytest.mark.parametrize("pairs", [1, 5])
def test_strassen_sums(lanes, pairs):
    channels, gap = 6 * lanes, 4
    x = np.random.default_rng(0).standard_normal((2, pairs, 2, channels + gap), np.float32)
    expected = kernels_strassen.oracle(x[..., :channels].reshape(2 * pairs, 2, channels)).reshape(2 * pairs, -1)
    for between in (1, pairs):  # as neighbours, or the odd ones behind all of the even ones
        if between > 1:
            x = np.ascontiguousarray(x.swapaxes(1, 2))
        for threads in (1, 3, 20):
            y = guarded_empty(x.size)
            y[...] = 7
            fields = dict(
                x=x.ctypes.data, x_pair=x.strides[2 if between > 1 else 1], x_image=x.strides[0],
                x_odd=between * 4 * x.shape[3], y=y.ctypes.data, y_pair=8 * x.shape[3], images=2, pairs=pairs,
                half=2 * channels,
            )  # fmt: skip
            row = np.array([0, *(fields[name] for name in KERNELS["strassen_sums"].fields)], np.int64)
            for thread in range(threads):
                library.function(("strassen_sums", lanes))(row.ctypes.data, thread, threads)
            sums = y.reshape(2 * pairs, -1)
            np.testing.assert_array_equal(sums[:, : 2 * channels], expected)
            assert (sums[:, 2 * channels :] == 7).all()
            assert (owner(y) == CANARY).sum() == owner(y).size - y.size


def test_the_seven_products_make_the_product():
    """In integers, so exactly: ((a11, a12), (a21, a22)) times the quarters of a weight."""
    generator = np.random.default_rng(0)
    pixels, weight = (generator.integers(-9, 9, size).astype(np.float32) for size in ((5, 2, 6), (8, 6, 1, 1)))
    values = {f"a{n // 2 + 1}{n % 2 + 1}": part for n, part in enumerate(np.moveaxis(pixels.reshape(5, 4, 3), 1, 0))}
    values |= {f"s{n + 1}": part for n, part in enumerate(np.moveaxis(kernels_strassen.oracle(pixels), 1, 0))}
    for part in strassen.SEVEN:
        made = values[part.x] @ packing.sum_of_quarters(weight, part.quarters)[:, :, 0, 0].T
        if part.also:
            values[part.also[1]] = made + values[part.also[0]]
        values[part.to] = made + (values[part.add] if part.add else 0)
    made = np.stack([np.hstack([values["c11"], values["c12"]]), np.hstack([values["c21"], values["c22"]])], 1)
    np.testing.assert_array_equal(made, pixels @ weight[:, :, 0, 0].T)


@pytest.fixture
def strassen_for_all(monkeypatch):
    """Also products that are too small to gain by it."""
    monkeypatch.setattr(strassen, "LEAST_CHANNELS", 64)
    monkeypatch.setattr(strassen, "LEAST_PIXELS", 2)
    monkeypatch.setattr(strassen, "NEIGHBOURS", 0)


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("size", [(1, 2), (7, 4), (15, 2), (9, 6), (1, 3), (5, 5), (9, 7)], ids=str)
@pytest.mark.parametrize("machine", X86)
def test_strassen(machine, size, halves, strassen_for_all, monkeypatch):
    """As near to the exact product as chains of multiply-adds of a few times the length may be."""
    if halves:
        monkeypatch.setattr(strassen, "NEIGHBOURS", 1000)
    elif size[1] % 2:
        pytest.skip("a line of neighbours is whole pairs")
    for depth, out, residual, kind in ((64, 128, False, None), (640, 64, False, "hard_swish"), (64, 64, True, "relu")):
        for nhwc, bias in ((False, True), (True, False)):
            net = product((2, depth, *size), out, 1, kind, residual, bias=bias, nhwc=nhwc)
            for scratch, threads in ((1 << 20, 1), (1, 2), (1 << 15, 3), (1, 70)):
                monkeypatch.setattr(strassen, "SCRATCH_BYTES", scratch)
                steps = plan.make_program(net.graph, net.tensors, net.x.shape, threads, layout.Packed()).steps
                assert {step.kernel[0] for step in steps} <= {"strassen", "strassen_sums"}
                assert_near(net, 4 * product_bound(net).max(), machine, threads)


def test_where_strassen_is_used():
    def used(shape, channels, window=1, **options):
        net = product(shape, channels, window, **options)
        (node,) = net.graph.nodes
        shapes = ops.infer_shapes(net.graph, shape, {name: tensor.shape for name, tensor in net.tensors.items()})
        return strassen.applies(node, shapes)

    assert used((1, 256, 8, 16), 512) and used((5, 256, 8, 16), 512)
    assert used((1, 256, 7, 7), 512) and used((3, 256, 8, 8), 512), "in halves"
    assert not used((2, 256, 16, 15), 512), "the last of a line would be paired with the first of another"
    assert not used((1, 256, 6, 7), 512) and not used((1, 192, 16, 16), 512) and not used((1, 512, 16, 16), 288)
    assert not used((1, 256, 16, 16), 256, 3) and not used((1, 256, 32, 32), 256, stride=2)
    assert not used((1, 256, 16, 16), 256, groups=2)
    assert used((1, 50, 256), 512, None) and used((2, 256, 256), 512, None)
    assert not used((1, 50, 512), 256, None) and not used((2, 197, 256), 512, None) and not used((64, 256), 512, None)


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("size", [(8, 6), (7, 6), (8, 7), (6, 5)], ids=str)
def test_strassen_in_bands(size, halves, strassen_for_all, monkeypatch):
    """The same bits as outside of them, whatever the bands. Not used where a band's lines may end with half a pair;
    no bands where the halves of an image are paired."""
    monkeypatch.setattr(strassen, "NEIGHBOURS", 1000 if halves else 0)
    net = network((3, 64, *size), inverted_residual(expanded=128, out=64, residual=True))
    monkeypatch.setattr(bands, "WORTHWHILE", np.inf)
    plain = run(net, WIDE)
    np.testing.assert_allclose(plain, net.exact(), atol=1e-5 * np.abs(plain).max())
    monkeypatch.setattr(bands, "WORTHWHILE", 0.0)
    monkeypatch.setattr(bands, "REREAD", 0.0)
    for l2_bytes in (1 << 10, 1 << 17, 1 << 22):
        monkeypatch.setattr(bands, "cache_sizes", lambda l2_bytes=l2_bytes: (1 << 15, l2_bytes, 1 << 25))
        for machine, threads in ((WIDE, 1), (HALVED, 2), (WIDE, 4), (MIDDLE, 2), (NARROW, 5), (ARM, 1)):
            banded = run(net, machine, threads)
            np.testing.assert_array_equal(banded, plain, f"{machine.lanes} lanes, {threads} threads")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("halves", [False, True])
def test_what_is_not_finite_makes_nan_of_a_pair_of_pixels(value, halves, strassen_for_all, monkeypatch):
    """The last of 16 pixels is paired with the one before it, or with the eighth."""
    monkeypatch.setattr(strassen, "NEIGHBOURS", 1000 if halves else 0)
    net = product((2, 64, 4, 4), 64, 1)
    clean, x = run(net), net.x.copy()
    x[1, 5, 3, 3] = value
    y = run(net, x=x).reshape(2, 64, 16)
    other, touched = 7 if halves else 14, np.zeros(y.shape, bool)
    touched[1, :, [other, 15]] = True
    np.testing.assert_array_equal(y[~touched], clean.reshape(y.shape)[~touched])
    assert not np.isfinite(y[1, :, 15]).any() and np.isnan(y[1, 32:, other]).all()


def test_the_middle_of_an_odd_number_of_pixels_is_paired_with_the_first(strassen_for_all, monkeypatch):
    """It is the even one of another pair as well, but only to compute the odd one of that."""
    monkeypatch.setattr(strassen, "NEIGHBOURS", 1000)
    net = product((2, 64, 3, 3), 64, 1)
    clean = run(net).reshape(2, 64, 9)
    for changed, touched in ((0, [0, 4]), (4, [0, 4, 8]), (8, [8])):
        x = net.x.copy().reshape(2, 64, 9)
        x[0, :, changed] = np.nan
        y = run(net, x=x.reshape(net.x.shape)).reshape(2, 64, 9)
        assert [pixel for pixel in range(9) if np.isnan(y[0, :, pixel]).any()] == touched
        assert np.isnan(y[0, :, changed]).all()
        untouched = [pixel for pixel in range(9) if pixel not in touched]
        np.testing.assert_array_equal(y[0, :, untouched], clean[0, :, untouched])
        np.testing.assert_array_equal(y[1], clean[1])


# Bands


def inverted_residual(stem=(1, 1), window=(3, 1), expanded=40, out=24, residual=False, width=1):
    """(window, stride) of the stem and of the convolution with groups of `width`, then a pointwise one."""

    def add(builder, x):
        y = builder.activation(builder.conv2d(x, "e", expanded, stem[0], stride=stem[1]), "relu6", "ea")
        y = builder.conv2d(y, "d", expanded, window[0], stride=window[1], groups=expanded // width)
        y = builder.conv2d(builder.activation(y, "hard_swish", "da"), "p", out, 1)
        return builder.residual(y, x, "r") if residual else y

    return add


def mobilenet_v1(builder, x):
    """Each pointwise convolution stands between two depthwise ones, and can go with one of them."""
    x = builder.conv2d(x, "stem", 24, 3, stride=2)
    for name in "abc":
        x = builder.conv2d(builder.conv2d(x, f"{name}d", 24, 3, groups=24), f"{name}p", 24, 1)
    return x


def gated_expansion(builder, x):
    """Squeeze-and-excite before the expansion: each image has its own weights."""
    gate = builder.activation(builder.global_average_pool(x, "m"), "hard_sigmoid", "g")
    return inverted_residual(residual=True)(builder, builder.scale(x, gate, "s"))


@pytest.mark.parametrize(
    "add, shape",
    [
        (inverted_residual(residual=True), (3, 24, 7, 5)),
        (inverted_residual(window=(5, 2)), (3, 24, 7, 5)),
        (inverted_residual((3, 2), expanded=33, out=17), (2, 3, 19, 14)),
        (inverted_residual(width=2, out=50), (3, 24, 2, 6)),
        (inverted_residual((7, 2), expanded=300, out=520), (3, 3, 8, 9)),
        (mobilenet_v1, (2, 3, 17, 11)),
        (gated_expansion, (3, 24, 7, 9)),
    ],
    ids=["residual", "5x5", "stem", "groups", "sums", "v1", "gated"],
)
@pytest.mark.parametrize("l2_bytes", [1 << 10, 1 << 15, 1 << 22])
def test_bands_of_every_width(add, shape, l2_bytes, monkeypatch):
    net = network(shape, add)
    monkeypatch.setattr(bands, "WORTHWHILE", np.inf)
    plain = run(net, WIDE)
    np.testing.assert_allclose(plain, net.exact(), atol=1e-5 * np.abs(plain).max())
    monkeypatch.setattr(bands, "WORTHWHILE", 0.0)
    monkeypatch.setattr(bands, "REREAD", 0.0)
    monkeypatch.setattr(bands, "cache_sizes", lambda: (1 << 15, l2_bytes, 1 << 25))
    for machine, threads in ((WIDE, 1), (HALVED, 2), (WIDE, 4), (MIDDLE, 2), (NARROW, 5), (ARM, 1)):
        np.testing.assert_array_equal(run(net, machine, threads), plain, f"{machine.lanes} lanes, {threads} threads")


def test_every_kernel_is_tested():
    """By name: a kernel that is added needs tests of its own, here."""
    products = {"convolution", "matmul", "stem", "depthwise", "max_pool", "packing", "gating"}
    others = {"average_pool", "elementwise", "layer_norm", "attention", "peak", "read", "lead", "follow", "bands"}
    assert set(KERNELS) == products | others | {"strassen", "strassen_sums"}


def test_peak_and_read():
    out = np.zeros(24 * 16, np.float32)
    row = np.array([0, 5, out.ctypes.data], np.int64)
    library.function(("peak", 16, 32))(row.ctypes.data, 0, 1)
    np.testing.assert_array_equal(out, 2 - 2.0**-5)
    x = np.ones(2048, np.float32)
    row = np.array([0, x.ctypes.data, 4096, 3, out.ctypes.data], np.int64)
    for thread in range(2):
        library.function(("read", 16))(row.ctypes.data, thread, 2)
    assert out[: 2 * 128].sum() == 3 * 2048


def test_oracles_are_the_operators():
    """The definitions beside the kernels and those of nanoinfer/ops.py say the same."""
    generator = np.random.default_rng(0)
    x, weight, bias = (generator.standard_normal(shape) for shape in ((2, 6, 7, 5), (4, 3, 3, 3), 4))
    node = network(
        (2, 6, 7, 5), lambda b, x: b.conv2d(x, "c", 4, 3, stride=2, padding=1, groups=2, bias=True)
    ).graph.nodes[0]
    y = ops.apply(node, [x], {"c.weight": weight, "c.bias": bias}).transpose(0, 2, 3, 1)
    x_last = x.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(convolution.oracle(x_last, weight, bias, 2, 1, 2), y, rtol=1e-12)
    alone = generator.standard_normal((6, 1, 3, 3))
    y = convolution.oracle(x_last, alone, np.ones(6), 2, 1, 6)
    np.testing.assert_allclose(depthwise.oracle(x_last, alone, np.ones(6), 2, 1), y, rtol=1e-12)
    y = ops.OPS["max_pool2d"].reference([x], {}, dict(window=3, stride=2, padding=1)).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(pooling.max_oracle(x_last, 3, 2, 1), y)
    y = ops.OPS["global_average_pool"].reference([x], {}, {})[..., 0, 0]
    np.testing.assert_allclose(pooling.average_oracle(x_last.reshape(2, -1, 6)), y, rtol=1e-12)
    tokens = x.reshape(2, 35, 6)
    y = ops.OPS["attention"].reference([tokens], {}, {"heads": 2})
    np.testing.assert_allclose(attention.oracle(tokens, 2), y, rtol=1e-12)
    scale, shift = generator.standard_normal((2, 6))
    y = ops.OPS["layer_norm"].reference([tokens], {"weight": scale, "bias": shift}, {"eps": 1e-6})
    oracle = normalization.oracle(tokens.reshape(70, 6), scale, shift, 1e-6).reshape(y.shape)
    np.testing.assert_allclose(oracle, y, rtol=1e-12)
    np.testing.assert_allclose(elementwise.oracle(tokens, scale, shift, tokens), tokens * scale + shift + tokens)
    for kind in KINDS:
        y = ops.ACTIVATIONS[kind](tokens @ np.ones((6, 3)) + scale[:3])
        np.testing.assert_allclose(matmul.oracle(tokens, np.ones((3, 6)), scale[:3], kind), y, rtol=1e-12, atol=1e-15)


# The same bits whatever the machine, the team, the batch and the tiles


def gated(builder, x):
    """Squeeze-and-excite before a pointwise convolution with a residual, as the passes fuse them."""
    gate = builder.activation(builder.global_average_pool(x, "m"), "hard_sigmoid", "g")
    y = builder.conv2d(builder.scale(x, gate, "s"), "c", x.channels, 1, bias=True)
    return builder.residual(y, x, "r")


NETWORKS = {
    "gated weights": network((3, 37, 7, 9), gated),
    "gated input": network((3, 37, 3, 5), gated),
    "conv3x3": product((3, 5, 9, 11), 48, 3, "relu", stride=2, bias=True),
    "conv7x7": product((3, 3, 17, 13), 24, 7, stride=2),
    "pointwise": product((3, 40, 5, 9), 40, 1, "hard_swish", residual=True, bias=True),
    "strassen": product((3, 256, 8, 16), 256, 1, "hard_swish", residual=True, bias=True),
    "strassen in halves": product((3, 320, 7, 7), 320, 1, "relu", residual=True, bias=True),
    "patches": product((3, 3, 12, 20), 40, 4, stride=4, padding=0),
    "strassen of tokens": product((3, 50, 256), 320, kind="gelu"),
    "linear": product((3, 29, 50), 80),
    "head": product((3, 130), 32, kind="gelu"),
    "wide head": product((3, 70), 50 * 16, bias=True),
    "depthwise": product((3, 48, 9, 14), 48, 3, "relu6", groups=48, residual=True, bias=True),
    "groups4": product((3, 48, 9, 7), 48, 3, groups=12, stride=2),
    "groups8": product((3, 48, 5, 17), 48, 3, groups=6),
    "groups64": product((3, 256, 3, 3), 256, 3, groups=4),
    "groups16": product((3, 48, 5, 8), 48, 3, groups=3),
    "max_pool": network((3, 48, 9, 7), lambda b, x: b.max_pool2d(x, "p", 3, 2, 1)),
    "average_pool": network((3, 48, 5, 7), lambda b, x: b.global_average_pool(x, "p")),
    "layer_norm": network((3, 5, 96), lambda b, x: b.layer_norm(x, "n")),
    "attention": network((3, 29, 3 * 2 * 32), lambda b, x: b.attention(x, 2, "a")),
    "batch_norm": network((3, 48, 5, 3), lambda b, x: b.batch_norm(x, "n")),
    "scale": network((3, 48, 5, 3), lambda b, x: b.scale(x, b.global_average_pool(x, "p"), "s")),
    "gelu": network((3, 48, 5, 3), lambda b, x: b.activation(x, "gelu", "a")),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_same_bits_at_any_width_team_and_batch(name):
    net = NETWORKS[name]
    y = run(net, WIDE)
    for machine, threads in (
        (WIDE, 2),
        (WIDE, 3),
        (WIDE, 5),
        (HALVED, 2),
        (MIDDLE, 1),
        (MIDDLE, 3),
        (NARROW, 2),
        (ARM, 3),
    ):
        np.testing.assert_array_equal(run(net, machine, threads), y)
    for image in range(3):
        np.testing.assert_array_equal(run(net, WIDE, 1, net.x[image : image + 1])[0], y[image])
    np.testing.assert_array_equal(run(net, MIDDLE, 2, net.x[1:2])[0], y[1])


@pytest.mark.parametrize("name", NETWORKS)
def test_same_bits_with_any_tile(name, monkeypatch):
    net, tiles = NETWORKS[name], ((WIDE, 3, 1), (MIDDLE, 2, 1))
    expected = run(net, WIDE)
    for machine, rows, vectors in tiles:
        for table in ("MATMUL_ROWS", "POOL_ROWS"):
            monkeypatch.setattr(target, table, {machine.registers: {1: rows + 1, 2: rows, 3: 1, 4: 1}})
        monkeypatch.setattr(target, "DEPTHWISE_ROWS", {machine.registers: {}})
        monkeypatch.setattr(target, "FEW_ROWS", rows)
        monkeypatch.setattr(target, "ATTENTION_TILE", {machine.registers: (rows, vectors)})
        np.testing.assert_array_equal(run(net, machine, 2), expected)


@pytest.mark.parametrize("machine", X86)
def test_plans_that_cut_a_weight_differently_share_what_they_can(machine):
    """88 channels are five vectors and a half: with half vectors, one pixel takes other panels than many."""
    net, packed, sizes = product((1, 8, 4, 4), 88, 1), layout.Packed(), []
    for size in (4, 1, 4):
        x = np.ascontiguousarray(net.x[:, :, :size, :size])
        planned = plan.make_program(net.graph, net.tensors, x.shape, 1, packed, machine=machine)
        planned.take(x)
        runtime.team(1).run(planned.table)
        np.testing.assert_array_equal(planned.give(net.output), run(net, machine, x=x))
        sizes.append(len(packed))
    assert sizes[2] == sizes[1] <= 2 * sizes[0]


# NaN, inf, denormals and the accuracy of exp and erf


# Of a pair of pixels, Strassen's scheme makes sums before it multiplies.
BY_ITS_DEFINITION = [name for name in NETWORKS if not name.startswith("strassen")]


@pytest.mark.parametrize("name", BY_ITS_DEFINITION)
def test_nan_stays_in_its_image(name):
    net = NETWORKS[name]
    clean, x = run(net), net.x.copy()
    x[1].flat[x[1].size // 2] = np.nan
    y = run(net, x=x)
    np.testing.assert_array_equal(y[[0, 2]], clean[[0, 2]])
    exact = replace(net, x=x).exact()
    assert np.isnan(exact[1]).any()
    np.testing.assert_array_equal(np.isnan(y), np.isnan(exact))


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("name", BY_ITS_DEFINITION)
def test_inf_goes_where_arithmetic_takes_it(name, value):
    net = NETWORKS[name]
    x = net.x.copy()
    x[1].flat[x[1].size // 2] = value
    with np.errstate(invalid="ignore"):
        exact = replace(net, x=x).exact()
    y = run(net, x=x)
    for special in (np.isnan, np.isposinf, np.isneginf):
        np.testing.assert_array_equal(special(y), special(exact))


def test_max_pool_keeps_nan_as_torch_does():
    x = np.random.default_rng(0).standard_normal((1, 16, 9, 9)).astype(np.float32)
    x[0, :, ::4, ::3] = np.nan
    net = network(x.shape, lambda b, x: b.max_pool2d(x, "p", 3, 2, 1))
    for machine in (WIDE, NARROW):
        y = run(net, machine, x=x)
        np.testing.assert_array_equal(y, torch.nn.functional.max_pool2d(torch.from_numpy(x), 3, 2, 1).numpy())


def test_denormals_are_not_flushed():
    smallest = np.float32(2) ** -149
    x = np.arange(1, 49, dtype=np.float32).reshape(1, 48) * smallest
    net = product((1, 48), 48)
    net.tensors["c.weight"], net.tensors["c.bias"] = np.eye(48, dtype=np.float32), np.zeros(48, np.float32)
    np.testing.assert_array_equal(run(net, x=x), x)
    net = network((1, 48, 1, 1), lambda b, x: b.residual(x, x, "r"))
    np.testing.assert_array_equal(run(net, x=x.reshape(1, 48, 1, 1)).ravel(), 2 * x[0])


def apply(kind, x, lanes=HOST.lanes):
    """An activation of a vector, by the elementwise kernel."""
    size = -(-x.size // 16) * 16
    source, y = np.zeros(size, np.float32), np.empty(size, np.float32)
    source[: x.size] = x
    row = dict(
        x=source.ctypes.data, x_pixel=64, y=y.ctypes.data, y_pixel=64, images=1, pixels=size // 16,
        vectors=16 // lanes, **activation.fields(kind),
    )  # fmt: skip
    instruction = np.array([0, *(row.get(name, 0) for name in elementwise.FIELDS)], np.int64)
    library.function(("elementwise", lanes, activation.variant(kind)))(instruction.ctypes.data, 0, 1)
    return y[: x.size]


SPECIAL = np.array(
    [0.0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 88.72284, -87.4, -103.97, -104.1, 3.95, 3.92], np.float32
)
TRUTH = {"exp": np.exp, "erf": lambda x: torch.erf(torch.from_numpy(x)).numpy()}


def worst_ulp(kind, x):
    """The largest error in units of the last place of the true value; checks NaN, infinities and signs besides."""
    y = apply(kind, x)
    with np.errstate(all="ignore"):
        exact = TRUTH[kind](x.astype(np.float64))
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x))
    if kind == "erf":
        np.testing.assert_array_equal(np.signbit(y)[x == x], np.signbit(x)[x == x])
    valid = x == x
    y, exact = np.clip(y[valid].astype(np.float64), -(2.0**128), 2.0**128), np.clip(exact[valid], None, 2.0**128)
    _, exponent = np.frexp(np.clip(np.abs(exact), 2.0**-126, 2.0**127))
    return float(np.max(np.abs(y - exact) / np.ldexp(1.0, exponent - 24), initial=0))


@pytest.mark.parametrize("kind", TRUTH)
def test_exp_and_erf_within_two_ulp(kind):
    x = np.arange(0, 2**32, 4099, dtype=np.uint64).astype(np.uint32).view(np.float32)
    near = np.random.default_rng(0).uniform(-105, 90, 200_000).astype(np.float32)
    assert max(worst_ulp(kind, part) for part in (x, near, near / 25, SPECIAL)) <= 2


def test_gelu_within_three_ulp_of_its_argument():
    far = np.arange(0, 2**32, 4099, dtype=np.uint64).astype(np.uint32).view(np.float32)
    near = np.random.default_rng(0).uniform(-15, 10, 500_000).astype(np.float32)
    for x in (far[np.isfinite(far)], near):
        wide = x.astype(np.float64)
        exact = wide / 2 * torch.special.erfc(torch.from_numpy(-wide * math.sqrt(0.5))).numpy()
        assert np.max(np.abs(apply("gelu", x) - exact) / np.spacing(np.abs(x)).astype(np.float64)) <= 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRUTH)
def test_exp_and_erf_within_two_ulp_everywhere(kind):
    step = 2**22
    starts = range(0, 2**32, step)
    assert max(worst_ulp(kind, np.arange(at, at + step).astype(np.uint32).view(np.float32)) for at in starts) <= 2


@pytest.mark.parametrize("kind", [*KINDS[1:], "exp", "erf"])
def test_activations_have_the_same_bits_at_any_width(kind):
    x = np.concatenate([SPECIAL, np.random.default_rng(0).normal(0, 4, 5000).astype(np.float32)])
    wide = apply(kind, x, 16).view(np.uint32)
    for lanes in (8, 4):
        np.testing.assert_array_equal(apply(kind, x, lanes).view(np.uint32), wide)


def test_special_values_of_exp_and_erf():
    np.testing.assert_array_equal(apply("exp", SPECIAL[:5]), np.array([1, 1, np.inf, 0, np.nan], np.float32))
    np.testing.assert_array_equal(apply("erf", SPECIAL[:5]), np.array([0, -0.0, 1, -1, np.nan], np.float32))
    assert np.signbit(apply("erf", SPECIAL[:2])).tolist() == [False, True]
    denormal = apply("exp", np.float32([-90, -100, -103]))
    assert (denormal > 0).all() and (denormal < 2.0**-126).all()


@pytest.mark.parametrize("kind", KINDS[1:])
def test_special_values_pass_as_in_torch(kind):
    names = {"hard_swish": "hardswish", "scaled_hard_swish": "hardswish", "hard_sigmoid": "hardsigmoid"}
    x = np.concatenate([SPECIAL, np.float32([2.9, 3, 3.1, 5.9, 6, 6.1, -2.9, -3, -3.1, 1e-40, -1e-40])])
    y = apply(kind, x)
    argument = x.astype(np.float64) * (math.sqrt(6) if kind == "scaled_hard_swish" else 1)
    expected = getattr(torch.nn.functional, names.get(kind, kind))(torch.from_numpy(argument)).numpy()
    if kind == "gelu":
        expected[np.isposinf(x)] = np.inf  # torch's vector code gives NaN here, its scalar code inf
    np.testing.assert_allclose(y, expected, 1e-6, 1e-6)


def test_patches_may_share_a_weight_with_what_is_none():
    def add(net, x):
        tensors = {"weight": net.parameter("w", 16, 3, 4, 4)}
        one, other = (
            net.add("conv2d", [x], 16, name, tensors, stride=stride, padding=0, groups=1)
            for name, stride in (("a", 4), ("b", 3))
        )
        return net.residual(one, other, "sum")

    net = network((1, 3, 8, 8), add)
    np.testing.assert_allclose(run(net), net.exact(), rtol=1e-4, atol=1e-4)


def test_products_may_share_a_weight_and_not_a_bias():
    def add(net, x):
        one = net.linear(x, "a", 16, weight="w", bias="first")
        return net.residual(one, net.linear(x, "c", 16, weight="w", bias="second"), "sum")

    net = network((3, 20), add)
    np.testing.assert_allclose(run(net), net.exact(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [16, 32])
def test_a_residual_has_the_shape_of_the_output(channels):
    """Also where a pass has fused it: less of it, and a kernel would read what lies beyond."""
    net = network((1, 32, 4, 4), lambda net, x: net.residual(net.conv2d(x, "c", 32, 1), x, "r"))
    net.tensors[net.graph.nodes[0].tensors["weight"]] = np.ones((channels, 32, 1, 1), np.float32)
    if channels == 32:
        run(net)
    else:
        with pytest.raises(ValueError, match="shapes differ"):
            run(net)


def test_a_gate_has_one_value_for_each_image_and_channel():
    with pytest.raises(ValueError, match="cannot scale the channels"):
        run(network((1, 16, 4, 4), lambda net, x: net.scale(x, net.activation(x, "hard_sigmoid", "h"), "s")))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_network_of_views_has_no_steps(threads):
    net = network((2, 8, 1, 1), lambda net, x: net.flatten(x, "f"))
    np.testing.assert_array_equal(run(net, threads=threads), net.x[..., 0, 0])
