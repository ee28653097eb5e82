"""Packed weights: micro-panels, sums of quarters, gates."""

from dataclasses import replace

import numpy as np
import pytest
from nanoinfer.kernels import packing
from nanoinfer.kernels.jit import library

from nanoinfer import runtime
from nanoinfer.lowering.packed import PackedWeights
from nanoinfer.lowering.strassen import MULTIPLIES
from tests.cases import NETWORKS
from tests.guarded import MACHINES, assert_guards_untouched, guarded_empty, network, product, run


@pytest.mark.parametrize("shape", [(5, 3, 1, 1), (16, 1, 3, 3), (33, 7, 3, 2), (48, 16, 1, 1)], ids=str)
@pytest.mark.parametrize("width", [4, 16, 48])
def test_packing(shape, width):
    weight = np.random.default_rng(0).standard_normal(shape, np.float32)
    exact = packing.reference(weight, width)
    assert packing.packed_size(weight.shape, width) == exact.size
    for threads in (1, 3):
        assert_packed(exact, threads, weight, channels=shape[0], k=shape[1], taps=shape[2] * shape[3], width=width)


@pytest.mark.parametrize("coefficients", [multiply.b for multiply in MULTIPLIES], ids=str)
def test_packing_sum_of_quarters(coefficients):
    weight = np.random.default_rng(0).standard_normal((32, 10, 1, 1), np.float32)
    exact = packing.reference(packing.sum_of_quarters(weight, coefficients), 8)
    for threads in (1, 3):
        assert_packed(exact, threads, weight, coefficients, channels=16, k=5, taps=1, width=8)


def assert_packed(exact, threads, weight, coefficients=(), **sizes):
    y = guarded_empty(exact.size)
    call = packing.Instruction(
        weight=weight.ctypes.data, channel_stride=weight.strides[0], y=y.ctypes.data, **sizes,
        **packing.coefficient_fields(coefficients),
    )  # fmt: skip
    row = np.array([0, *call], np.int64)
    for thread in range(threads):
        library.function(packing.Packing())(row.ctypes.data, thread, threads)
    np.testing.assert_array_equal(y, exact.ravel())
    assert_guards_untouched(y)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", ["gated weights", "gated input"])
def test_gate_is_fused_into_convolution(name, machine):
    case = NETWORKS[name]
    assert [node.op for node in case.graph.nodes] == ["global_average_pool", "activation", "conv2d"]
    np.testing.assert_allclose(run(case, machine, 2), case.exact(), 1e-5, 1e-5)


@pytest.mark.parametrize("lanes", [16, 8, 4])
def test_gate_weights(lanes):
    generator, panels, depth, vectors = np.random.default_rng(0), 3, 5, 2
    packed = generator.standard_normal((panels, depth, vectors * lanes), np.float32)
    gate = generator.standard_normal((2, depth + 3), np.float32)
    y = guarded_empty(2 * packed.size)
    call = packing.GateInstruction(
        packed=packed.ctypes.data, gate=gate.ctypes.data, gate_image_stride=gate.strides[0], y=y.ctypes.data, images=2,
        rows=panels * depth, k=depth, vectors=vectors,
    )  # fmt: skip
    row = np.array([0, *call], np.int64)
    for thread in range(3):
        library.function(packing.GateWeights(lanes))(row.ctypes.data, thread, 3)
    np.testing.assert_array_equal(y, packing.gate_reference(packed, gate[:, :depth]).ravel())
    assert_guards_untouched(y)


@pytest.mark.parametrize("channels", [4, 64])
def test_gated_network_input(channels):
    def add(builder, x):
        gate = builder.conv2d(builder.global_average_pool(builder.conv2d(x, "c", 16, 1), "m"), "f", 16, 1)
        return builder.conv2d(builder.scale(x, builder.activation(gate, "hard_sigmoid", "h"), "s"), "p", channels, 1)

    case = network((2, 16, 5, 5), add)
    np.testing.assert_allclose(run(case), case.exact(), atol=1e-4)


@pytest.mark.parametrize("machine", MACHINES)
def test_packed_weights_shared_across_programs(machine):
    """88 channels are five vectors and a half: with half vectors, one pixel takes other panels than many."""
    case, packed, sizes = product((1, 8, 4, 4), 88, 1), PackedWeights(), []
    for size in (4, 1, 4):
        part = replace(case, x=np.ascontiguousarray(case.x[:, :, :size, :size]))
        program = part.program(machine, packed=packed)
        program.bind_input(part.x)
        runtime.team(1).run(program.table)
        np.testing.assert_array_equal(program.read_output(case.output), run(part, machine))
        sizes.append(len(packed))
    assert sizes[2] == sizes[1] <= 2 * sizes[0]
