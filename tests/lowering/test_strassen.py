"""Strassen's scheme: where it applies, its error, and what it does to values that are not finite."""

import numpy as np
import pytest
from nanoinfer.kernels import packing
from nanoinfer.kernels.elementwise import sums_reference

from nanoinfer.graph import passes
from nanoinfer.lowering import strassen
from tests.cases import inverted_residual
from tests.guarded import (
    ARM,
    DOUBLE_PUMPED,
    HOST,
    MACHINES,
    MIDDLE,
    NARROW,
    WIDE,
    assert_near,
    fusing,
    network,
    product,
    product_bound,
    run,
    tuned,
    unfused,
    with_numerics,
)  # fmt: skip


def everywhere(machine, split_pairs=False):
    """A machine that uses the scheme also for products that are too small to gain by it."""
    neighbours_from = 1000 if split_pairs else 0
    return with_numerics(
        machine, strassen_channels=64, strassen_pixels=2, strassen_neighbours_from=neighbours_from
    )  # fmt: skip


def test_seven_products_make_the_product():
    """In integers, so exactly: ((a11, a12), (a21, a22)) times the quarters of a weight."""
    generator = np.random.default_rng(0)
    pixels, weight = (generator.integers(-9, 9, size).astype(np.float32) for size in ((5, 2, 6), (8, 6, 1, 1)))
    values = {f"A{n // 2 + 1}{n % 2 + 1}": part for n, part in enumerate(np.moveaxis(pixels.reshape(5, 4, 3), 1, 0))}
    values |= {f"S{n + 1}": part for n, part in enumerate(np.moveaxis(sums_reference(pixels), 1, 0))}
    for multiply in strassen.MULTIPLIES:
        made = values[multiply.a.name] @ packing.sum_of_quarters(weight, multiply.b)[:, :, 0, 0].T
        if multiply.aux:
            aux_in, aux_out = multiply.aux
            values[aux_out.name] = made + values[aux_in.name]
        values[multiply.out.name] = made + (values[multiply.partial.name] if multiply.partial else 0)
    made = np.stack([np.hstack([values["C11"], values["C12"]]), np.hstack([values["C21"], values["C22"]])], 1)
    np.testing.assert_array_equal(made, pixels @ weight[:, :, 0, 0].T)


@pytest.mark.parametrize("split_pairs", [False, True])
@pytest.mark.parametrize("size", [(1, 2), (7, 4), (15, 2), (9, 6), (1, 3), (5, 5), (9, 7)], ids=str)
@pytest.mark.parametrize("machine", MACHINES)
def test_strassen_error_bound(machine, size, split_pairs):
    """The error is that of chains of multiply-adds of a few times the length."""
    if size[1] % 2 and not split_pairs:
        pytest.skip("a row of neighbours is whole pairs")
    machine = everywhere(machine, split_pairs)
    for k, out, residual, activation in (
        (64, 128, False, None), (640, 64, False, "hard_swish"), (64, 64, True, "relu"),
    ):  # fmt: skip
        for nhwc, bias in ((False, True), (True, False)):
            case = product((2, k, *size), out, 1, activation, residual, bias=bias, nhwc=nhwc)
            for workspace, threads in ((1 << 20, 1), (1, 2), (1 << 15, 3), (1, 70)):
                small = tuned(machine, strassen_workspace_bytes=workspace)
                assert {step.kernel for step in case.program(small, threads).steps} == {"strassen_f32"}
                assert_near(case, 4 * product_bound(case).max(), small, threads)


def test_where_strassen_applies():
    def used(shape, channels, window=1, **options):
        case = product(shape, channels, window, **options)
        (node,) = case.graph.nodes
        return strassen.applies(node, case.shapes(), HOST)

    assert used((1, 256, 8, 16), 512) and used((5, 256, 8, 16), 512)
    assert used((1, 256, 7, 7), 512) and used((3, 256, 8, 8), 512), "split pairs"
    assert not used((2, 256, 16, 15), 512), "the last of a row would be paired with the first of another"
    assert not used((1, 256, 6, 7), 512) and not used((1, 192, 16, 16), 512) and not used((1, 512, 16, 16), 288)
    assert not used((1, 256, 16, 16), 256, 3) and not used((1, 256, 32, 32), 256, stride=2)
    assert not used((1, 256, 16, 16), 256, groups=2)
    assert used((1, 50, 256), 512, None) and used((2, 256, 256), 512, None)
    assert not used((1, 50, 512), 256, None) and not used((2, 197, 256), 512, None) and not used((64, 256), 512, None)


def scaled_network(change, *, norm):
    """A wide pointwise convolution whose tensors `change` alters, behind a batch norm if `norm`: (node, shapes)."""

    def add(builder, x):
        y = builder.batch_norm(x, "n") if norm else x
        return builder.conv2d(y, "c", 256, 1)

    case = network((1, 256, 8, 16), add, count=0)
    for name in ("n.weight", "n.bias"):
        if name in case.tensors:
            case.tensors[name] = np.ones(256, np.float32)
    case.tensors["c.weight"] = case.tensors["c.weight"].copy()
    change(case.tensors)
    graph, _ = passes.optimise(case.graph, case.tensors)
    return graph.producers()[case.output], case.shapes()


def times(name, index, factor):
    def change(tensors):
        tensors[name][index] *= np.float32(factor)

    return change


@pytest.mark.parametrize(
    "change, norm, used",
    [
        (times("c.weight", np.s_[:], 1e-3), False, True),
        (times("c.weight", np.s_[:], 1e3), True, True),
        (times("c.weight", np.s_[3], 1e-9), False, True),  # switched off
        (times("c.weight", np.s_[200], 1000), False, False),
        (times("c.weight", np.s_[:, 3], 1e-3), False, False),  # the input's channel must be large, or it has no effect
        (times("n.weight", np.s_[3], 1000), True, False),
        (times("n.weight", np.s_[3], 0), True, True),
        (times("c.weight", np.s_[:], 0), False, False),
        (times("c.weight", np.s_[7, 7], np.nan), False, False),
    ],
)
def test_strassen_needs_even_scales(change, norm, used):
    """The decision is one of the tensors, and the same for the planner and the lowering."""
    node, shapes = scaled_network(change, norm=norm)
    assert strassen.applies(node, shapes, HOST) == used
    assert bool(strassen.thread_workspace(node, shapes, HOST)) == used


def test_exact_models_do_without_the_scheme():
    case = network((1, 256, 8, 16), lambda b, x: b.conv2d(x, "c", 256, 1), count=0)
    for exact in (False, True):
        graph, _ = passes.optimise(case.graph, case.tensors, exact=exact)
        assert strassen.applies(graph.nodes[0], case.shapes(), HOST) != exact


@pytest.mark.parametrize("split_pairs", [False, True])
@pytest.mark.parametrize("size", [(8, 6), (7, 6), (8, 7), (6, 5)], ids=str)
def test_strassen_in_fused_blocks(size, split_pairs):
    """The same bits as unfused, whatever the row bands.

    The scheme is not used where a band's rows may end with half a pair, and blocks with split pairs are not fused.
    """
    case = network((3, 64, *size), inverted_residual(expanded=128, out=64, residual=True))
    plain = run(case, unfused(everywhere(WIDE, split_pairs)))
    np.testing.assert_allclose(plain, case.exact(), atol=1e-5 * np.abs(plain).max())
    for l2_bytes in (1 << 10, 1 << 17, 1 << 22):
        for machine, threads in ((WIDE, 1), (DOUBLE_PUMPED, 2), (WIDE, 4), (MIDDLE, 2), (NARROW, 5), (ARM, 1)):
            fused = run(case, fusing(everywhere(machine, split_pairs), l2_bytes), threads)
            np.testing.assert_array_equal(fused, plain, f"{machine.lanes} lanes, {threads} threads")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("split_pairs", [False, True])
def test_strassen_nonfinite_stays_in_pair(value, split_pairs):
    """The last of 16 pixels is paired with the one before it, or with the eighth."""
    machine, case = everywhere(HOST, split_pairs), product((2, 64, 4, 4), 64, 1)
    clean, x = run(case, machine), case.x.copy()
    x[1, 5, 3, 3] = value
    y = run(case, machine, x=x).reshape(2, 64, 16)
    other, touched = 7 if split_pairs else 14, np.zeros(y.shape, bool)
    touched[1, :, [other, 15]] = True
    np.testing.assert_array_equal(y[~touched], clean.reshape(y.shape)[~touched])
    assert not np.isfinite(y[1, :, 15]).any() and np.isnan(y[1, 32:, other]).all()


def test_strassen_middle_pixel_pairs_with_first():
    """The middle pixel is the even one of another pair as well, but only to compute the odd one of that pair."""
    machine, case = everywhere(HOST, split_pairs=True), product((2, 64, 3, 3), 64, 1)
    clean = run(case, machine).reshape(2, 64, 9)
    for changed, touched in ((0, [0, 4]), (4, [0, 4, 8]), (8, [8])):
        x = case.x.copy().reshape(2, 64, 9)
        x[0, :, changed] = np.nan
        y = run(case, machine, x=x.reshape(case.x.shape)).reshape(2, 64, 9)
        assert [pixel for pixel in range(9) if np.isnan(y[0, :, pixel]).any()] == touched
        assert np.isnan(y[0, :, changed]).all()
        untouched = [pixel for pixel in range(9) if pixel not in touched]
        np.testing.assert_array_equal(y[0, :, untouched], clean[0, :, untouched])
        np.testing.assert_array_equal(y[1], clean[1])
