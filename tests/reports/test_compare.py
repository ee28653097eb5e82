"""compare: correct networks agree, and a planted fault is named."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import nanoinfer
from nanoinfer.reports.compare import GROWTH, ROUNDING, _difference


def test_correct_networks_agree_within_half_the_allowance(any_pair):
    model, module, x = any_pair
    comparison = nanoinfer.compare(model, module, x)
    assert comparison.agrees and comparison.first is None
    assert not comparison.missing and not comparison.unknown
    assert {layer.name.partition(":")[0] for layer in comparison.layers} == {*model.graph.modules, "output"}
    for layer in comparison.layers:
        assert layer.relative_error <= layer.allowed / 2, layer
        assert layer.cosine > 0.999999
    assert f"agrees in all {len(comparison.layers)} layers" in comparison.verdict


def test_module_that_runs_twice_is_compared_twice(pair):
    model, module, x = pair("resnet18")
    names = [layer.name for layer in nanoinfer.compare(model, module, x).layers]
    assert [name for name in names if name.startswith("layer1.0.relu")] == ["layer1.0.relu", "layer1.0.relu:2"]


def check_fault(model, module, x, name, operator):
    comparison = nanoinfer.compare(model, module, x)
    first = comparison.first
    assert first is not None and (first.module, first.operator) == (name, operator), comparison.verdict
    assert first.inputs_error < 2e-5
    assert comparison.verdict.startswith(f"{name}: {operator} differs from here on (")
    assert not comparison.agrees
    at = comparison.layers.index(first)
    assert {layer.status for layer in comparison.layers[:at]} == {"agrees"}
    assert comparison.layers[-1].status == "follows"


def test_fault_wrong_eps(pair):
    model, module, x = pair("mobilenetv3_small_100")
    module.get_submodule("blocks.2.1.bn2").eps = 1e-3
    check_fault(model, module, x, "blocks.2.1.bn2", "batch_norm")


def test_fault_wrong_eps_deep_in_network(pair):
    model, module, x = pair("resnet18")
    module.get_submodule("layer4.1.bn1").eps = 1e-3
    check_fault(model, module, x, "layer4.1.bn1", "batch_norm")


def test_fault_wrong_padding(pair):
    model, module, x = pair("mobilenetv3_small_100")
    conv = module.get_submodule("blocks.3.0.conv_dw")
    conv.forward = lambda x: nn.functional.conv2d(
        nn.functional.pad(x, (1, 3, 1, 3)), conv.weight, None, conv.stride, 0, 1, conv.groups
    )
    check_fault(model, module, x, "blocks.3.0.conv_dw", "conv2d")


def test_fault_swapped_channels(pair):
    model, module, x = pair("resnet18")
    with torch.no_grad():
        weight = module.get_submodule("layer3.0.downsample.0").weight
        weight[[3, 4]] = weight[[4, 3]]
    check_fault(model, module, x, "layer3.0.downsample.0", "conv2d")


def test_fault_other_activation(pair):
    model, module, x = pair("mobilenetv3_small_100")
    module.get_submodule("blocks.3.1.se").gate = nn.Sigmoid()
    check_fault(model, module, x, "blocks.3.1.se.gate", "hard_sigmoid")


def test_fault_inside_attention(pair):
    model, module, x = pair("vit_b_32")
    name = "encoder.layers.encoder_layer_7.self_attention"
    with torch.no_grad():
        module.get_submodule(name).in_proj_weight[:768] *= 1.01
    check_fault(model, module, x, name, "linear")


def test_fault_between_modules(pair):
    model, module, x = pair("mobilenetv3_small_100")
    block = module.get_submodule("blocks.1.1")
    forward = block.forward
    block.forward = lambda x: forward(x) + 0.01 * x  # not what any module in it returns
    check_fault(model, module, x, "blocks.1.1", "add")


def test_fault_other_shape(pair):
    model, module, x = pair("resnet18")
    module.avgpool = nn.Sequential(module.avgpool, nn.Flatten())
    report = nanoinfer.compare(model, module, x)
    first = report.first
    assert first.name == "avgpool" and first.relative_error == np.inf
    assert "(shape (2, 512, 1, 1), not (2, 512))" in report.verdict
    assert json.loads(report.to_json())["layers"][report.layers.index(first)]["relative_error"] is None


def test_torch_module_keeps_modes_and_hooks(pair):
    model, module, x = pair("mobilenetv3_small_100")
    module.train()
    module.get_submodule("bn1").eval()
    before = {name: part.training for name, part in module.named_modules()}
    assert nanoinfer.compare(model, module, x).agrees
    assert {name: part.training for name, part in module.named_modules()} == before
    assert not any(part._forward_hooks for part in module.modules())
    module.eval()


def test_partial_dump_allows_for_layers_between(pair):
    model, module, x = pair("mobilenetv3_small_100")
    with torch.no_grad():
        output = module(torch.from_numpy(x)).numpy()
    comparison = nanoinfer.compare(model, {"input": x, "output": output, "mystery": output})
    assert comparison.agrees and [layer.name for layer in comparison.layers] == ["output"]
    assert comparison.layers[0].allowed == pytest.approx(ROUNDING * len(model.graph.nodes) ** 0.5)
    assert comparison.unknown == ("mystery",)
    assert "the reference lacks them: conv_stem" in str(comparison)
    assert not nanoinfer.compare(model, {"input": x, "output": output * 1.01}).agrees


def test_difference_of_arrays():
    nan, inf = float("nan"), float("inf")
    assert _difference(np.array([1.0, 2.0]), np.array([1.0, 4.0]))[:3] == (2.0, 0.5, 4.0)
    assert _difference(np.array([nan, inf, 1.0]), np.array([nan, inf, 1.0])) == (0.0, 0.0, 1.0, 1.0)
    assert _difference(np.array([nan, 1.0]), np.array([1.0, 1.0]))[1] == inf
    assert _difference(np.zeros(3), np.zeros(3)) == (0.0, 0.0, 0.0, 1.0)
    assert _difference(np.ones(3), np.zeros(3))[1] == inf
    assert _difference(np.ones((1, 3)), np.ones(3))[1] == inf
    assert 0 < ROUNDING < 1e-5 < 1 < GROWTH < 100
