"""Fused blocks give the same bits as layer by layer, whatever the row bands, threads and images."""

from dataclasses import replace

import numpy as np
import pytest

from nanoinfer import create_model
from tests.cases import inverted_residual
from tests.guarded import ARM, DOUBLE_PUMPED, HOST, MIDDLE, NARROW, WIDE, fusing, network, run, unfused


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
        (inverted_residual((3, 2), (5, 2), expanded=33, padding="same"), (2, 3, 18, 28)),
        (mobilenet_v1, (2, 3, 17, 11)),
        (gated_expansion, (3, 24, 7, 9)),
    ],
    ids=["residual", "5x5", "stem", "groups", "sums", "same", "v1", "gated"],
)
@pytest.mark.parametrize("l2_bytes", [1 << 10, 1 << 15, 1 << 22])
def test_fused_blocks_same_bits_for_any_band(add, shape, l2_bytes):
    case = network(shape, add)
    plain = run(case, unfused(WIDE))
    np.testing.assert_allclose(plain, case.exact(), atol=1e-5 * np.abs(plain).max())
    for machine, threads in ((WIDE, 1), (DOUBLE_PUMPED, 2), (WIDE, 4), (MIDDLE, 2), (NARROW, 5), (ARM, 1)):
        fused = run(case, fusing(machine, l2_bytes), threads)
        np.testing.assert_array_equal(fused, plain, f"{machine.lanes} lanes, {threads} threads")


def logits(name, shape, threads, machine):
    """(logits, number of fused blocks) of a network with random weights, planned for a machine."""
    model = create_model(name, "random:5", threads=threads).planned_for(machine)
    x = np.random.default_rng(7).standard_normal(shape, np.float32)
    return model(x), sum(step.node.op == "fused" for step in model.program(shape).steps)


@pytest.mark.parametrize("name", ["mobilenetv2_140", "mobilenetv3_small_100", "resnext50_32x4d"])
@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (3, 3, 75, 49)])
def test_networks_same_bits_with_and_without_fusion(name, shape):
    plain, none = logits(name, shape, 1, unfused(HOST))
    assert none == 0
    for threads in (1, 2, 3):
        for l2_bytes in (1 << 10, 1 << 16, 1 << 24):  # bands of a row, of some rows, of all
            fused, count = logits(name, shape, threads, fusing(HOST, l2_bytes))
            assert count > 1
            np.testing.assert_array_equal(fused, plain)


@pytest.mark.parametrize("shape", [(1, 3, 104, 96), (1, 3, 96, 104)])
def test_wide_convolutions_in_fused_blocks(shape):
    """The second stage has 13 rows of 12 pixels, in pairs by Strassen's scheme, or 12 of 13, which have no pairs."""
    plain, _ = logits("resnext50_32x4d", shape, 1, unfused(HOST))
    for threads, l2_bytes in ((1, 1 << 17), (2, 1 << 20)):
        fused, _ = logits("resnext50_32x4d", shape, threads, fusing(HOST, l2_bytes))
        np.testing.assert_array_equal(fused, plain)


def test_which_nodes_are_fused():
    """A stem, an inverted residual with and without its projection (a gate stands between), a narrow grouped block."""
    machine = replace(HOST, l2_bytes=1 << 20, l3_bytes=1 << 25)
    found = {
        name: [
            [part.output for part in step.node.attributes["parts"]]
            for step in create_model(name, "random:5", threads=1).planned_for(machine).program((1, 3, 448, 448)).steps
            if step.node.op == "fused"
        ]
        for name in ("mobilenetv2_140", "mobilenetv3_small_100", "resnext50_32x4d")
    }
    assert found["mobilenetv2_140"][0] == ["bn1.act", "blocks.0.0.bn1.act", "blocks.0.0.bn2"]
    assert found["mobilenetv2_140"][1] == ["blocks.1.0.bn1.act", "blocks.1.0.bn2.act", "blocks.1.0.bn3"]
    assert found["mobilenetv3_small_100"][0] == ["bn1.act", "blocks.0.0.bn1.act"]
    assert found["resnext50_32x4d"][0] == ["layer1.0.relu", "layer1.0.relu:2", "layer1.0.relu:3"]


def test_tapped_layer_is_not_fused_away():
    x, seen = np.random.default_rng(7).standard_normal((1, 3, 64, 64), np.float32), []
    for machine in (unfused(HOST), fusing(HOST, 1 << 16)):
        _, count = logits("mobilenetv2_140", x.shape, 2, machine)
        model = create_model("mobilenetv2_140", "random:5", threads=2).planned_for(machine)
        y, taps = model(x, taps=["blocks.1.0.bn1"])
        np.testing.assert_array_equal(y, model(x))
        seen.append(taps["blocks.1.0.bn1"])
    assert count > 1 and seen[0].shape[:2] == (1, 144)
    np.testing.assert_array_equal(*seen)
