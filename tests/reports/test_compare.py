"""compare: correct networks agree, a planted fault is named, a dump does as well as a module."""

import json
from copy import deepcopy
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import nanoinfer
from bench import references
from nanoinfer import InputError, create_model
from nanoinfer.cli import commands as cli
from nanoinfer.reports.compare import GROWTH, ROUNDING, _difference

ROOT = Path(__file__).parents[1]
SIZES = {"mobilenetv3_small_100": 64, "mobilenetv2_article": 64, "resnet18": 64, "vit_b_32": 32}


@cache
def original(name):
    """A torch module with random values, nanoinfer's network with the same, and an input."""
    arguments = {"image_size": 32} if name == "vit_b_32" else {}
    module = references.reference(name, seed=1, **arguments)
    model = create_model(name, references.state_arrays(module), threads=1, **arguments)
    return model, module, np.random.default_rng(1).standard_normal((2, 3, SIZES[name], SIZES[name]), np.float32)


def pair(name):
    """The same with a module of one's own, to break."""
    model, module, x = original(name)
    return model, deepcopy(module), x


@pytest.fixture(scope="module")
def small():
    return pair("mobilenetv3_small_100")


def part(module, name):
    return module.get_submodule(name)


@pytest.mark.parametrize("name", SIZES)
def test_correct_networks_agree_with_room_to_spare(name):
    model, module, x = pair(name)
    comparison = nanoinfer.compare(model, module, x)
    assert comparison.agrees and comparison.first is None
    assert not comparison.missing and not comparison.unknown
    assert {layer.name.partition(":")[0] for layer in comparison.layers} == {*model.graph.modules, "output"}
    for layer in comparison.layers:
        assert layer.relative_error <= layer.allowed / 2, layer
        assert layer.cosine > 0.999999
    assert f"agrees in all {len(comparison.layers)} layers" in comparison.verdict


def test_a_module_that_runs_three_times_is_compared_each_time():
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


def test_wrong_eps():
    model, module, x = pair("mobilenetv3_small_100")
    part(module, "blocks.2.1.bn2").eps = 1e-3
    check_fault(model, module, x, "blocks.2.1.bn2", "batch_norm")


def test_wrong_eps_of_a_plain_batch_norm_deep_in_a_network():
    model, module, x = pair("resnet18")
    part(module, "layer4.1.bn1").eps = 1e-3
    check_fault(model, module, x, "layer4.1.bn1", "batch_norm")


def test_wrong_padding():
    model, module, x = pair("mobilenetv3_small_100")
    conv = part(module, "blocks.3.0.conv_dw")
    conv.forward = lambda x: nn.functional.conv2d(
        nn.functional.pad(x, (1, 3, 1, 3)), conv.weight, None, conv.stride, 0, 1, conv.groups
    )
    check_fault(model, module, x, "blocks.3.0.conv_dw", "conv2d")


def test_swapped_channels():
    model, module, x = pair("resnet18")
    with torch.no_grad():
        weight = part(module, "layer3.0.downsample.0").weight
        weight[[3, 4]] = weight[[4, 3]]
    check_fault(model, module, x, "layer3.0.downsample.0", "conv2d")


def test_another_activation():
    model, module, x = pair("mobilenetv3_small_100")
    part(module, "blocks.3.1.se").gate = nn.Sigmoid()
    check_fault(model, module, x, "blocks.3.1.se.gate", "hard_sigmoid")


def test_a_fault_inside_of_attention():
    model, module, x = pair("vit_b_32")
    name = "encoder.layers.encoder_layer_7.self_attention"
    with torch.no_grad():
        part(module, name).in_proj_weight[:768] *= 1.01
    check_fault(model, module, x, name, "linear")


def test_a_step_between_modules():
    model, module, x = pair("mobilenetv3_small_100")
    block = part(module, "blocks.1.1")
    forward = block.forward
    block.forward = lambda x: forward(x) + 0.01 * x  # not what any module in it returns
    check_fault(model, module, x, "blocks.1.1", "add")


def test_another_shape():
    model, module, x = pair("resnet18")
    module.avgpool = nn.Sequential(module.avgpool, nn.Flatten())
    report = nanoinfer.compare(model, module, x)
    first = report.first
    assert first.name == "avgpool" and first.relative_error == np.inf
    assert "(shape (2, 512, 1, 1), not (2, 512))" in report.verdict
    assert json.loads(report.to_json())["layers"][report.layers.index(first)]["relative_error"] is None


def test_the_module_is_left_as_it_was(small):
    model, module, x = small
    module.train()
    part(module, "bn1").eval()
    before = {name: part.training for name, part in module.named_modules()}
    assert nanoinfer.compare(model, module, x).agrees
    assert {name: part.training for name, part in module.named_modules()} == before
    assert not any(part._forward_hooks for part in module.modules())
    module.eval()


def dump_of_the_docs():
    """The function that docs/compare.md shows."""
    text = (ROOT / "docs" / "compare.md").read_text()
    code = text[text.index("def dump(") :]
    space = {"np": np, "torch": torch, "partial": partial}
    exec(code[: code.index("```")], space)
    return space["dump"]


def test_dump(tmp_path, capsys, monkeypatch):
    model, module, x = pair("resnet18")
    monkeypatch.setattr(nanoinfer.model, "create_model", lambda *_, **__: model)
    dump_of_the_docs()(module, torch.from_numpy(x), tmp_path / "good.npz")
    assert cli.main(["compare", "resnet18", "--dump", str(tmp_path / "good.npz"), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = nanoinfer.compare(model, module, x)
    assert [row["name"] for row in found["layers"]] == [layer.name for layer in expected.layers]
    assert found["agrees"] and found["missing"] == [] and found["unknown"] == []

    part(module, "layer2.0.bn2").eps = 0.01
    dump_of_the_docs()(module, torch.from_numpy(x), tmp_path / "bad.npz")
    assert cli.main(["compare", "resnet18", "--dump", str(tmp_path / "bad.npz")]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith("layer2.0.bn2: batch_norm differs from here on (error ")


def test_a_dump_of_a_few_layers_allows_for_those_between(small):
    model, module, x = small
    with torch.no_grad():
        output = module(torch.from_numpy(x)).numpy()
    comparison = nanoinfer.compare(model, {"input": x, "output": output, "mystery": output})
    assert comparison.agrees and [layer.name for layer in comparison.layers] == ["output"]
    assert comparison.layers[0].allowed == pytest.approx(ROUNDING * len(model.graph.nodes) ** 0.5)
    assert comparison.unknown == ("mystery",)
    assert "the reference lacks them: conv_stem" in str(comparison)
    assert not nanoinfer.compare(model, {"input": x, "output": output * 1.01}).agrees


@pytest.mark.parametrize("content", [b"no zip", b"PK\x03\x04broken", None, "one array"])
def test_files_that_are_no_dump(tmp_path, content, capsys):
    path = tmp_path / "x.npz"
    if content is None:
        np.savez(path, a=np.array([{}], object))
    elif content == "one array":
        with open(path, "wb") as file:
            np.save(file, np.zeros(3))
    else:
        path.write_bytes(content)
    assert cli.main(["compare", "digits", "--dump", str(path)]) == 2
    assert "is no .npz file of activations" in capsys.readouterr().err
    assert cli.main(["compare", "digits", "--dump", str(tmp_path / "none.npz")]) == 2
    assert "none.npz: No such file" in capsys.readouterr().err


def test_command_line_against_the_libraries(capsys):
    for name in ("mobilenetv3_small_050", "resnet18"):
        assert cli.main(["compare", name, "--weights", "random:3", "--input", "random:1", "--threads", "1"]) == 0
        out = capsys.readouterr().out
        assert f"{name} agrees in all" in out.splitlines()[-1]


def test_command_line_against_another_network(monkeypatch, capsys):
    from nanoinfer.reports import torch_reference as reference

    sound = reference.reference_module

    def broken(model):
        module = sound(model)
        part(module, "layer1.1.bn1").eps = 0.1
        return module

    monkeypatch.setattr(reference, "reference_module", broken)
    assert cli.main(["compare", "resnet18", "--weights", "random", "--format", "markdown"]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("layer1.1.bn1: batch_norm differs from here on")


def test_wrong_use(small, capsys, monkeypatch):
    model, module, x = small
    assert cli.main(["compare", "digits"]) == 2
    assert "no library has a torch module called digits" in capsys.readouterr().err
    assert cli.main(["compare", "digits", "--dump", "d.npz", "--input", "random"]) == 2
    assert "--dump brings its own input" in capsys.readouterr().err
    assert cli.main(["compare", "mobilenetv3_small_050", "--weights", "random", "--input", "random:x"]) == 2
    assert "a seed is a whole number" in capsys.readouterr().err
    with pytest.raises(InputError, match="no module name in common; it has 0, 1"):
        nanoinfer.compare(model, {"input": x, "0": x, "1": x})
    with pytest.raises(InputError, match="no array called 'input'"):
        nanoinfer.compare(model, {"conv_stem": x})
    with pytest.raises(InputError, match="needs an input x"):
        nanoinfer.compare(model, module)
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert cli.main(["compare", "mobilenetv3_small_050", "--weights", "random"]) == 2
    assert "needs torch: pip install torch; or give a dump (--dump)" in capsys.readouterr().err


def test_difference():
    nan, inf = float("nan"), float("inf")
    assert _difference(np.array([1.0, 2.0]), np.array([1.0, 4.0]))[:3] == (2.0, 0.5, 4.0)
    assert _difference(np.array([nan, inf, 1.0]), np.array([nan, inf, 1.0])) == (0.0, 0.0, 1.0, 1.0)
    assert _difference(np.array([nan, 1.0]), np.array([1.0, 1.0]))[1] == inf
    assert _difference(np.zeros(3), np.zeros(3)) == (0.0, 0.0, 0.0, 1.0)
    assert _difference(np.ones(3), np.zeros(3))[1] == inf
    assert _difference(np.ones((1, 3)), np.ones(3))[1] == inf
    assert 0 < ROUNDING < 1e-5 < 1 < GROWTH < 100
