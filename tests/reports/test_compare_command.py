"""nanoinfer compare: modules of the libraries, dumps, exit codes and messages."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import nanoinfer
from nanoinfer import InputError, cli

ROOT = Path(__file__).parents[2]


def dump_of_the_docs():
    """The function that docs/compare.md shows."""
    text = (ROOT / "docs" / "compare.md").read_text()
    code = text[text.index("def dump(") :]
    space = {"np": np, "torch": torch, "partial": partial}
    exec(code[: code.index("```")], space)
    return space["dump"]


def test_dump_agrees_with_module(tmp_path, capsys, monkeypatch, pair):
    model, module, x = pair("resnet18")
    monkeypatch.setattr(nanoinfer.model, "create_model", lambda *_, **__: model)
    dump_of_the_docs()(module, torch.from_numpy(x), tmp_path / "good.npz")
    assert cli.main(["compare", "resnet18", "--dump", str(tmp_path / "good.npz"), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = nanoinfer.compare(model, module, x)
    assert [row["name"] for row in found["layers"]] == [layer.name for layer in expected.layers]
    assert found["agrees"] and found["missing"] == [] and found["unknown"] == []

    module.get_submodule("layer2.0.bn2").eps = 0.01
    dump_of_the_docs()(module, torch.from_numpy(x), tmp_path / "bad.npz")
    assert cli.main(["compare", "resnet18", "--dump", str(tmp_path / "bad.npz")]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith("layer2.0.bn2: batch_norm differs from here on (error ")


@pytest.mark.parametrize("content", [b"no zip", b"PK\x03\x04broken", None, "one array"])
def test_unreadable_dump_is_refused(tmp_path, content, capsys):
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


def test_command_compares_with_libraries(capsys):
    for name in ("mobilenetv3_small_050", "resnet18"):
        assert cli.main(["compare", name, "--weights", "random:3", "--input", "random:1", "--threads", "1"]) == 0
        out = capsys.readouterr().out
        assert f"{name} agrees in all" in out.splitlines()[-1]


def test_command_exits_with_1_on_difference(monkeypatch, capsys):
    from nanoinfer.reports import torch_reference as reference

    sound = reference.reference_module

    def broken(model):
        module = sound(model)
        module.get_submodule("layer1.1.bn1").eps = 0.1
        return module

    monkeypatch.setattr(reference, "reference_module", broken)
    assert cli.main(["compare", "resnet18", "--weights", "random", "--format", "markdown"]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("layer1.1.bn1: batch_norm differs from here on")


def test_compare_refuses_bad_input(pair, capsys, monkeypatch):
    model, module, x = pair("mobilenetv3_small_100")
    assert cli.main(["compare", "digits"]) == 2
    assert "no library has a torch module called digits" in capsys.readouterr().err
    assert cli.main(["compare", "digits", "--dump", "d.npz", "--input", "random"]) == 2
    assert "--dump brings its own input" in capsys.readouterr().err
    assert cli.main(["compare", "mobilenetv3_small_050", "--weights", "random", "--input", "random:x"]) == 2
    assert "a seed is a whole number" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"no module name in common; it has 0\\x1b, 1"):
        nanoinfer.compare(model, {"input": x, "0\x1b": x, "1": x})
    with pytest.raises(InputError, match="no array called 'input'"):
        nanoinfer.compare(model, {"conv_stem": x})
    with pytest.raises(InputError, match="needs an input x"):
        nanoinfer.compare(model, module)
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert cli.main(["compare", "mobilenetv3_small_050", "--weights", "random"]) == 2
    assert "needs torch: pip install torch; or give a dump (--dump)" in capsys.readouterr().err
