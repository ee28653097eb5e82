"""Every wrong use is one line on standard error with exit code 2."""

import pytest

from nanoinfer import cli
from nanoinfer.cli import commands
from tests.cli.command_line import refused


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["COMMAND", "--help"]),
        (["predicted"], ["predicted", "predict", "--help"]),
        (["predict", "--top", "3"], ["--top", "--help"]),
        (["predict", "--topk", "0"], ["--topk", "above 0"]),
        (["predict", "--topk", "many"], ["--topk", "many"]),
        (["predict", "--threads", "-1"], ["--threads"]),
        (["predict", "--format", "xml"], ["--format", "table"]),
        (["predict", "-m", "vit_b_32"], ["no image given", "vit_b_32"]),
        (["predict", "x.png", "-m", "vit_b_23"], ["vit_b_23"]),
        (["models", "mobilnetv3_smal"], ["mobilnetv3_smal", "mobilenetv3_small_100"]),
        (["models", "zzz"], ["zzz", "digits"]),
        (["convert", "a.pth"], ["OUT.safetensors"]),
        (["convert", "a.pth", "b.pth"], ["b.pth", ".safetensors"]),
        (["convert", "nowhere.pth", "b.safetensors"], ["nowhere.pth"]),
        (["warmup", "vit_b_23"], ["vit_b_23"]),
    ],
    ids=" ".join,
)
def test_wrong_use_is_one_line(run, models, tmp_path, monkeypatch, arguments, parts):
    monkeypatch.chdir(tmp_path)
    refused(run(*arguments), *parts)
    assert list(tmp_path.iterdir()) == []


def raising(error):
    def command(arguments):
        raise error

    return command


def test_system_errors_are_one_line_and_bugs_a_traceback(run, monkeypatch):
    monkeypatch.setattr(commands, "models", raising(OSError(28, "No space left on device", "out.bin")))
    refused(run("models"), "out.bin: No space left on device")
    monkeypatch.setattr(commands, "models", raising(KeyboardInterrupt()))
    assert run("models") == (130, "", "")
    monkeypatch.setattr(commands, "models", raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):  # a bug shows its traceback
        cli.main(["models"])
