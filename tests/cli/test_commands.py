"""nanoinfer models, convert and warmup; --help and --version."""

import re

import numpy as np
import pytest
from nanoinfer.weights import save_safetensors

import nanoinfer
from nanoinfer import cli
from nanoinfer.architectures import MODELS
from nanoinfer.cli import commands
from tests.cli.command_line import refused


def test_models_lists_matching_networks(run):
    code, out, err = run("models")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[2:]] == list(MODELS)
    _, out, _ = run("models", "vit_b_32")
    assert re.search(r"vit_b_32 +88,224,232 +3 x 224 x 224 +vision transformer", out)
    _, out, _ = run("models", "mobilenetv3_small*")
    assert len(out.splitlines()) == 2 + 3


def test_convert_copies_tensors(run, tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.ones(2)}
    source, target = tmp_path / "in.pth", tmp_path / "out.safetensors"
    torch.save(tensors, source)
    code, out, err = run("convert", source, target)
    assert (code, err) == (0, "") and "2 tensors" in out and "MB" in out
    arrays = nanoinfer.load_weights(target)
    assert set(arrays) == set(tensors)
    np.testing.assert_array_equal(arrays["fc.weight"], tensors["fc.weight"].numpy())
    before = target.read_bytes()
    refused(run("convert", target, target), "is the source itself")
    (tmp_path / "link.safetensors").symlink_to(target)
    refused(run("convert", target, tmp_path / "link.safetensors"), "is the source itself")
    assert target.read_bytes() == before
    refused(run("convert", source, tmp_path / "no" / "out.safetensors"), "out.safetensors")


def test_convert_says_what_it_takes(run, tmp_path):
    torch = pytest.importorskip("torch")
    average = {"module.w": torch.zeros(2), "n_averaged": torch.tensor(3)}
    torch.save({"model": {"w": torch.ones(2)}, "model_ema": average}, tmp_path / "last.ckpt")
    target = tmp_path / "out.safetensors"
    code, out, err = run("convert", tmp_path, target)
    assert code == 0 and out.startswith("1 tensors")
    assert err.splitlines() == [
        f"nanoinfer: {tmp_path}: takes last.ckpt, the only weight file of this kind there",
        f"nanoinfer: {tmp_path}: takes the moving average of the weights, 'model_ema'; "
        "add #model to the path for the raw weights",
        f"nanoinfer: {tmp_path}: removes the prefix 'module.' of all names",
    ]
    assert nanoinfer.load_weights(target)["w"].tolist() == [0, 0]
    code, _, err = run("convert", f"{tmp_path / 'last.ckpt'}#model", target)
    assert (code, err) == (0, "") and nanoinfer.load_weights(target)["w"].tolist() == [1, 1]


def test_convert_refuses_empty_file(run, tmp_path):
    save_safetensors({}, tmp_path / "empty.safetensors")
    code, out, err = run("convert", tmp_path / "empty.safetensors", tmp_path / "new.safetensors")
    assert (code, out) == (2, "") and "holds no tensors" in err and not (tmp_path / "new.safetensors").exists()


def test_warmup_runs_each_network_once(run, models):
    code, out, err = run("warmup")
    assert (code, err) == (0, "") and re.fullmatch(r"7 networks ready in \d+\.\d s\n", out)
    assert [model.architecture.name for model in models] == list(commands.WARMUP_MODELS)
    assert all(model.weights == "random" and len(model.shapes) == 1 for model in models)
    assert models[0].shapes == [(1, 3, 96, 96)] and models[1].shapes == [(1, 3, 224, 224)]
    _, out, _ = run("warmup", "digits")
    assert out.startswith("1 network ready")


def test_warmup_takes_sizes_batches_and_threads(run, models):
    run("warmup", "digits", "vit_b_32", "--sizes", 64, "96x80", "--batches", 1, 8, "--threads", 2)
    assert models[0].threads == 2 and models[0].options == {}
    assert models[0].shapes == [(count, 3, *size) for size in ((64, 64), (96, 80)) for count in (1, 8)]
    refused(run("warmup", "digits", "--sizes", "0"), "0", "whole number above 0")


def test_help_and_version_exit_with_0(capsys):
    for option in ("--version", "--help"):
        with pytest.raises(SystemExit) as caught:
            cli.main([option])
        assert caught.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"nanoinfer {nanoinfer.__version__}\n") and "warmup" in out


def test_package_offers_its_names():
    for name in nanoinfer.__all__:
        assert getattr(nanoinfer, name) is not None and name in dir(nanoinfer)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        nanoinfer.nothing  # noqa: B018
