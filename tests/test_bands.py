"""Convolutions band by band give the same bits as layer by layer, whatever the bands, threads and images."""

import numpy as np
import pytest

from nanoinfer import create_model
from nanoinfer.lowering import fusion as bands


def logits(monkeypatch, model, shape, threads, l2_bytes, worthwhile=0.0):
    """(logits, number of steps that go in bands) on a machine with an L2 cache of so many bytes."""
    monkeypatch.setattr(bands, "cache_sizes", lambda: (1 << 15, l2_bytes, 1 << 25))
    monkeypatch.setattr(bands, "WORTHWHILE", worthwhile)
    monkeypatch.setattr(bands, "REREAD", 0.0)
    network = create_model(model, "random:5", threads=threads)
    x = np.random.default_rng(7).standard_normal(shape, np.float32)
    return network(x), sum(step.kernel[0] == "bands" for step in network.program(shape).steps)


@pytest.mark.parametrize("model", ["mobilenetv2_140", "mobilenetv3_small_100", "resnext50_32x4d"])
@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (3, 3, 75, 49)])
def test_bits_do_not_depend_on_bands(monkeypatch, model, shape):
    plain, none = logits(monkeypatch, model, shape, 1, 1 << 20, worthwhile=np.inf)
    assert none == 0
    for threads in (1, 2, 3):
        for l2_bytes in (1 << 10, 1 << 16, 1 << 24):  # a line at a time, some lines, all of them
            banded, count = logits(monkeypatch, model, shape, threads, l2_bytes)
            assert count > 1
            np.testing.assert_array_equal(banded, plain)


@pytest.mark.parametrize("shape", [(1, 3, 104, 96), (1, 3, 96, 104)])
def test_wide_convolutions_in_bands(monkeypatch, shape):
    """The second stage has 13 lines of 12 pixels, in pairs by Strassen's scheme, or 12 of 13, which have no pairs."""
    plain, _ = logits(monkeypatch, "resnext50_32x4d", shape, 1, 1 << 20, worthwhile=np.inf)
    for threads, l2_bytes in ((1, 1 << 17), (2, 1 << 20)):
        banded, _ = logits(monkeypatch, "resnext50_32x4d", shape, threads, l2_bytes)
        np.testing.assert_array_equal(banded, plain)


def test_what_goes_together(monkeypatch):
    """A stem, an inverted residual with and without its project (a gate stands between), a narrow grouped block."""
    monkeypatch.setattr(bands, "cache_sizes", lambda: (1 << 15, 1 << 20, 1 << 25))
    found = {
        name: [
            [part.output for part in step.node.attributes["parts"]]
            for step in create_model(name, "random:5", threads=1).program((1, 3, 448, 448)).steps
            if step.kernel[0] == "bands"
        ]
        for name in ("mobilenetv2_140", "mobilenetv3_small_100", "resnext50_32x4d")
    }
    assert found["mobilenetv2_140"][0] == ["bn1.act", "blocks.0.0.bn1.act", "blocks.0.0.bn2"]
    assert found["mobilenetv2_140"][1] == ["blocks.1.0.bn1.act", "blocks.1.0.bn2.act", "blocks.1.0.bn3"]
    assert found["mobilenetv3_small_100"][0] == ["bn1.act", "blocks.0.0.bn1.act"]
    assert found["resnext50_32x4d"][0] == ["layer1.0.relu", "layer1.0.relu:2", "layer1.0.relu:3"]


def test_a_tapped_layer_is_computed_as_it_stands(monkeypatch):
    x = np.random.default_rng(7).standard_normal((1, 3, 64, 64), np.float32)
    seen = []
    for worthwhile in (np.inf, 0.0):
        _, count = logits(monkeypatch, "mobilenetv2_140", x.shape, 2, 1 << 16, worthwhile)
        network = create_model("mobilenetv2_140", "random:5", threads=2)
        y, taps = network(x, taps=["blocks.1.0.bn1"])
        np.testing.assert_array_equal(y, network(x))
        seen.append(taps["blocks.1.0.bn1"])
    assert count > 1 and seen[0].shape[:2] == (1, 144)
    np.testing.assert_array_equal(*seen)
