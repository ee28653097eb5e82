"""Taps against torch's forward hooks; features and head against the whole network."""

import pickle

import numpy as np

import nanoinfer
from tests.helpers import random_images, refused
from tests.networks import hooked


def check_taps(taps, seen32, seen64):
    """Check every tap against its layer in float64.

    The bound is 16 float32 roundings of the layer's largest value, or twice the error of torch in float32.
    """
    for name, value in taps.items():
        expected = seen64[name]
        assert value.dtype == np.float32 and value.shape == expected.shape, name
        bound = max(2 * np.abs(seen32[name] - expected).max(), 16 * 2.0**-24 * np.abs(expected).max())
        error = np.abs(value - expected).max()
        assert error <= bound, f"{name}: error {error:.3e}, allowed {bound:.3e}"


def test_taps_match_torch_forward_hooks(small_network):
    model, x = small_network.model, small_network.input(2)
    seen32, _ = hooked(small_network.module, x)
    seen64, _ = hooked(small_network.double, x.astype(np.float64))
    names = list(model.graph.modules)
    assert set(names) == set(seen64)

    y, taps = model(x, taps=names)
    assert list(taps) == names
    check_taps(taps, seen32, seen64)
    y32, y64 = small_network.torch_outputs(x)
    small_network.check_error(y, y32, y64, "beside all taps")

    # Few taps leave most of the network fused.
    y, taps = model(x, taps=names[3::11])
    check_taps(taps, seen32, seen64)
    small_network.check_error(y, y32, y64, "beside few taps")

    y, taps = model(x, taps=names[-1])  # the last module returns the logits: no fused operators are split for it
    np.testing.assert_array_equal(y, model(x))
    np.testing.assert_array_equal(taps[names[-1]], y)


def test_head_of_features_gives_the_logits(small_network):
    model, x = small_network.model, small_network.input(3)
    features, y = model.forward_features(x), model(x)
    logits = model.forward_head(features)
    if features.ndim == 3:  # for the logits alone, the last block computes one token, in sums of another order
        np.testing.assert_allclose(logits, y, rtol=0, atol=1e-5 * np.abs(y).max())
    else:
        np.testing.assert_array_equal(logits, y)
    np.testing.assert_array_equal(model.forward_head(np.asfortranarray(features)), logits)
    if hasattr(small_network.module, "forward_features"):  # timm
        y32, y64 = small_network.torch_outputs(x, lambda module, x: module.forward_features(x))
        small_network.check_error(features, y32, y64, "features")
        y32, y64 = small_network.torch_outputs(features, lambda module, x: module.forward_head(x))
        small_network.check_error(model.forward_head(features), y32, y64, "head")


def test_values_of_the_graph_by_name():
    model = nanoinfer.create_model("digits")
    x = random_images()
    logits, first = model.graph.outputs[0], model.graph.nodes[0].output
    values = model.values(x, [first, logits, first])
    assert list(values) == [first, logits]
    np.testing.assert_array_equal(model.values(x, logits)[logits], model(x))
    np.testing.assert_allclose(values[logits], model(x), rtol=1e-4, atol=1e-4)
    with refused("digits has no value 'zzz'"):
        model.values(x, ["zzz"])
    with refused("values takes at least one name"):
        model.values(x, [])


def test_exact_logits_have_the_same_bits_with_taps_and_without(small_network):
    exact = nanoinfer.Model(small_network.model.pretrained, 2, exact=True)
    x = small_network.input(3)
    y = exact(x)
    y32, y64 = small_network.torch_outputs(x)
    small_network.check_error(y, y32, y64, "exact")
    names = list(exact.graph.modules)
    for taps in (names, names[3::11], names[-1:]):
        logits, values = exact(x, taps=taps)
        np.testing.assert_array_equal(logits, y)
        assert list(values) == taps
    np.testing.assert_array_equal(exact.forward_head(exact.forward_features(x)), y)
    np.testing.assert_array_equal(exact(x[1:2]), y[1:2])
    assert pickle.loads(pickle.dumps(exact)).exact and exact.with_passes(None).exact and not small_network.model.exact
