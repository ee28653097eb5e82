"""The torch reference models: the right networks, whose random values let every fault show in the logits."""

import numpy as np
import pytest
import torch

from bench.references import reference, state_arrays

PARAMETERS = {  # of networks with 1,000 classes, as the model cards and the walkthrough count them
    "mobilenetv2_140": 6_108_776,
    "mobilenetv3_small_100": 2_542_856,
    "resnext50_32x4d": 25_028_904,
    "vit_b_32": 88_224_232,
    "mobilenetv2_article": 3_505_960,
}


def count_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_random_values_of_a_reference_neither_vanish_nor_overflow(name):
    module = reference(name, seed=3)
    assert not module.training
    assert count_parameters(module) == PARAMETERS[name]
    for key, array in state_arrays(module).items():
        assert array.dtype == np.float32, key
        assert np.isfinite(array).all(), key
        assert np.ptp(array) > 0, f"{key} is constant"

    extremes = []  # the largest magnitude that each layer returns
    for layer in module.modules():
        if not any(layer.children()):
            layer.register_forward_hook(lambda _, __, y: extremes.append(y.abs().max().item()) if y.numel() else None)
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    with torch.no_grad():
        logits = module(torch.from_numpy(x))
    assert logits.shape == (1, 1000)
    assert 0.05 < logits.std() < 50
    assert np.isfinite(extremes).all() and 1e-3 < min(extremes) and max(extremes) < 1e3


def test_logits_depend_on_the_image():
    module = reference("mobilenetv2_article", seed=3)
    x = np.random.default_rng(1).standard_normal((4, 3, 96, 96), np.float32)
    with torch.no_grad():
        logits = module(torch.from_numpy(x))
    assert logits.std(0).mean() > 0.1 * logits.std()


@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "mobilenetv2_article"])
def test_seed_decides_every_value(name):
    torch.manual_seed(1)
    first = state_arrays(reference(name, seed=3))
    torch.manual_seed(2)
    second, other = state_arrays(reference(name, seed=3)), state_arrays(reference(name, seed=4))
    assert list(first) == list(second)
    for key in first:
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)
        assert not np.array_equal(first[key], other[key]), key


def test_width_and_classes_of_torchvision_mobilenet_v2():
    assert count_parameters(reference("mobilenet_v2")) == 3_504_872
    narrow = reference("mobilenet_v2", width_mult=0.5, num_classes=10)
    assert narrow.classifier[1].out_features == 10
    assert narrow.features[0][0].out_channels == 16


def test_tensor_names_of_the_article_network():
    names = list(state_arrays(reference("mobilenetv2_article")))
    norm = ["weight", "bias", "running_mean", "running_var"]
    assert names[:5] == ["first_conv.conv.weight"] + [f"first_conv.bn.{key}" for key in norm]
    block = [
        f"{layer}.{key}"
        for convolution in ("pwconv0", "dwconv", "pwconv1")
        for layer, keys in ((convolution, ["weight"]), (f"bn_{convolution}", norm))
        for key in keys
    ]
    assert names[5:20] == [f"inv_residual0.{key}" for key in block]
    assert names[20:35] == [f"inv_residual1.0.{key}" for key in block]
    assert names[-7:] == ["last_conv.conv.weight"] + [f"last_conv.bn.{k}" for k in norm] + ["fc.weight", "fc.bias"]
    assert len(names) == 2 * 5 + 17 * 15 + 2


def test_channels_of_the_article_network_are_truncated():
    shapes = {key: array.shape for key, array in state_arrays(reference("mobilenetv2_article", width=0.35)).items()}
    assert shapes["first_conv.conv.weight"] == (11, 3, 3, 3)  # 11.2
    assert shapes["inv_residual0.pwconv0.weight"] == (11, 11, 1, 1)  # t = 1 keeps its convolution
    assert shapes["inv_residual0.pwconv1.weight"] == (5, 11, 1, 1)  # 5.6
    assert shapes["inv_residual4.0.dwconv.weight"] == (22 * 6, 1, 3, 3)  # the scaled count times t
    assert shapes["last_conv.conv.weight"] == (448, 112, 1, 1)
    assert shapes["fc.weight"] == (1000, 448)


def test_residual_blocks_of_the_article_network():
    expected = [
        f"inv_residual{stage}.{i}" for stage, n in ((1, 2), (2, 3), (3, 4), (4, 3), (5, 3)) for i in range(1, n)
    ]
    for width in (1.0, 0.35):
        module = reference("mobilenetv2_article", width=width, num_classes=2)
        assert [name for name, layer in module.named_modules() if getattr(layer, "residual", False)] == expected


def test_unknown_reference_is_refused():
    with pytest.raises(ValueError, match="alexnet"):
        reference("alexnet")
