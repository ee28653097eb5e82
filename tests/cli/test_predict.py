"""The command line: what each command prints, and that every wrong use is one line with exit code 2."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from nanoinfer.weights import save_safetensors
from PIL import Image

import nanoinfer
from nanoinfer import InputError
from nanoinfer import console as report
from nanoinfer.architectures import MODELS
from nanoinfer.cli import commands as cli
from nanoinfer.data import labels
from nanoinfer.image import preprocess

ROOT = Path(__file__).parents[1]
SAMPLES = sorted((ROOT / "nanoinfer" / "data" / "digits").glob("*.png"))


class Stand:
    """Stands in for Model: its n-th call predicts class n, after the last class the first again."""

    def __init__(self, name, weights, threads):
        self.architecture, self.weights, self.threads, self.shapes = MODELS[name], weights, threads, []

    def preprocess(self, images):
        return preprocess(images, self.architecture.preprocessing)

    def __call__(self, x):
        self.shapes.append(x.shape)
        logits = np.zeros((len(x), self.architecture.arguments["num_classes"]), np.float32)
        logits[:, (len(self.shapes) - 1) % logits.shape[1]] = 5
        return logits

    def top(self, logits, topk):
        names = labels(self.architecture.labels, logits.shape[1])
        best = np.argsort(-logits, kind="stable")[:, :topk]
        return [
            [(names[i], int(i), float(row[i]) / 10) for i in order] for order, row in zip(best, logits, strict=True)
        ]


@pytest.fixture
def models(monkeypatch):
    """Every model that the command made; nothing is compiled."""
    made = []

    def create_model(name, weights=None, *, num_classes=None, threads=None):
        if name not in MODELS:
            raise InputError(f"unknown model {name!r}")
        made.append(Stand(name, weights, threads))
        return made[-1]

    module = ModuleType("nanoinfer.model")
    module.create_model = create_model
    monkeypatch.setitem(sys.modules, "nanoinfer.model", module)
    return made


@pytest.fixture
def run(capsys):
    """run("predict", ...) -> (exit code, standard output, standard error)."""

    def run(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def photo(tmp_path):
    Image.new("RGB", (300, 200), "red").save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


def refused(result, *parts):
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith("nanoinfer: ") and err.count("\n") == 1 and err.endswith("\n"), err
    for part in parts:
        assert part in err
    return err


def test_predict_without_arguments_classifies_the_samples(run, models, monkeypatch):
    monkeypatch.chdir(ROOT)
    code, out, err = run("predict")
    assert (code, err) == (0, "")
    rows = re.findall(r"^(\S+)digit_(\d)\.png +(\d) +50\.0% +[\d.]+ *$", out, re.MULTILINE)
    folder = os.path.join("nanoinfer", "data", "digits", "")
    assert rows == [(folder, str(i), str((i + 1) % 10)) for i in range(10)]
    assert models[0].architecture.name == "digits"
    assert models[0].shapes == [(1, 3, 96, 96)] * 11  # one call that is not timed


def test_predict_groups_labels_under_their_file(run, models, photo):
    code, out, _ = run("predict", photo, photo, "-m", "mobilenetv3_small_100", "--weights", "w.pth", "--threads", "2")
    lines = [line for line in out.splitlines() if "%" in line]
    assert code == 0 and len(lines) == 10
    assert [str(photo) in line for line in lines] == [True, False, False, False, False] * 2
    assert "goldfish" in lines[0]
    assert (models[0].weights, models[0].threads, models[0].shapes[0]) == ("w.pth", 2, (1, 3, 224, 224))


def test_json_and_csv_hold_the_same_and_nothing_else(run, models, photo):
    code, out, err = run("predict", photo, SAMPLES[0], "--topk", 3, "--format", "json")
    items = json.loads(out)
    assert (code, err) == (0, "") and [item["file"] for item in items] == [str(photo), str(SAMPLES[0])]
    assert items[0]["predictions"][0] == {"label": "1", "index": 1, "probability": 0.5}
    assert [len(item["predictions"]) for item in items] == [3, 3] and items[0]["milliseconds"] > 0
    code, out, err = run("predict", photo, SAMPLES[0], "--topk", 3, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert (code, err) == (0, "") and [row["rank"] for row in rows] == ["1", "2", "3"] * 2
    assert [(row["label"], int(row["index"])) for row in rows] == [
        (top["label"], top["index"]) for item in items for top in item["predictions"]
    ]


def test_no_more_labels_than_classes(run, models, photo):
    _, out, _ = run("predict", photo, "--topk", "1000", "--format", "json")
    assert len(json.loads(out)[0]["predictions"]) == 10


def test_file_names_are_shown_whole_and_as_they_are(run, models, tmp_path):
    path = tmp_path / ("long " * 30 + "[red]x ü.png")
    Image.new("L", (8, 8)).save(path)
    for topk in (1, 2):
        _, out, _ = run("predict", path, "--topk", topk)
        assert str(path) in out
    _, out, _ = run("predict", path, "--format", "json")
    assert json.loads(out)[0]["file"] == str(path)


def test_a_bad_image_does_not_stop_the_others(run, models, photo, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    for form in ("table", "csv", "json"):
        code, out, err = run("predict", tmp_path / "bad.png", photo, tmp_path / "none.png", "--format", form)
        assert code == 2 and "photo.jpg" in out and "bad.png" not in out
        assert re.fullmatch(
            r"nanoinfer: \S*bad\.png: not an image.*\nnanoinfer: \S*none\.png: no such file; check the path\n", err
        )


def test_bad_images_alone_print_no_table(run, models, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:2000])
    refused(run("predict", tmp_path / "half.jpg"), "half.jpg: damaged image")
    refused(run("predict", tmp_path), "is a folder")


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


def test_models(run):
    code, out, err = run("models")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[2:]] == list(MODELS)
    _, out, _ = run("models", "vit_b_32")
    assert re.search(r"vit_b_32 +88,224,232 +3 x 224 x 224 +vision transformer", out)
    _, out, _ = run("models", "mobilenetv3_small*")
    assert len(out.splitlines()) == 2 + 3


def test_convert(run, tmp_path):
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


def test_warmup_runs_each_network_once(run, models):
    code, out, err = run("warmup")
    assert (code, err) == (0, "") and re.fullmatch(r"7 networks ready in \d+\.\d s\n", out)
    assert [model.architecture.name for model in models] == list(cli.WARMUP_MODELS)
    assert all(model.weights == "random" and len(model.shapes) == 1 for model in models)
    assert models[0].shapes == [(1, 3, 96, 96)] and models[1].shapes == [(1, 3, 224, 224)]
    _, out, _ = run("warmup", "digits")
    assert out.startswith("1 network ready")


def test_help_and_version(capsys):
    for option in ("--version", "--help"):
        with pytest.raises(SystemExit) as caught:
            cli.main([option])
        assert caught.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"nanoinfer {nanoinfer.__version__}\n") and "warmup" in out


def raising(error):
    def command(arguments):
        raise error

    return command


def test_faults_of_the_system_and_of_the_code(run, monkeypatch):
    monkeypatch.setattr(cli, "models", raising(OSError(28, "No space left on device", "out.bin")))
    refused(run("models"), "out.bin: No space left on device")
    monkeypatch.setattr(cli, "models", raising(KeyboardInterrupt()))
    assert run("models") == (130, "", "")
    monkeypatch.setattr(cli, "models", raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):  # a bug shows its traceback
        cli.main(["models"])


def test_json_has_no_nan(capsys):
    item = SimpleNamespace(file="a.png", milliseconds=1234.5, top=[("x", 0, float("nan"))])
    report.predictions_json([item])
    assert json.loads(capsys.readouterr().out)[0]["predictions"][0]["probability"] is None
    report.predictions_table([item])
    assert "nan%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "text"), [(0.012345, "0.0123"), (1.005, "1.00"), (12.34, "12.3"), (123.4, "123"), (4567.8, "4568")]
)
def test_three_digits(value, text):
    assert report._three_digits(value) == text


def process(*arguments, **options):
    command = [sys.executable, "-m", "nanoinfer", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, **options)


def test_a_narrow_or_ascii_console_loses_nothing():
    for environment in ({"COLUMNS": "40"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "cp1252"}):
        result = process("models", "mobilenetv2_*", env={**os.environ, **environment})
        assert (result.returncode, result.stderr) == (0, "")
        assert "MobileNetV2 of the paper walkthrough, any width and input size" in result.stdout


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_a_closed_pipe_is_quiet():
    command = f"{sys.executable} -m nanoinfer models | true"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert result.stderr == ""


def test_predict_in_a_process():
    result = process("predict", "--format", "json")
    assert (result.returncode, result.stderr) == (0, "")
    items = json.loads(result.stdout)
    assert len(items) == 10
    right = [item["file"].endswith(f"digit_{item['predictions'][0]['label']}.png") for item in items]
    assert sum(right) >= 9


def test_what_commands_import():
    process("predict")  # so that the kernels are compiled
    script = "import sys; from nanoinfer.cli import main; assert main({}) == 0; print(sorted(sys.modules))"
    for arguments, absent in (
        (["predict", "--format", "json"], {"numba", "torch", "rich"}),
        (["predict"], {"numba", "torch", "rich.progress"}),
        (["models"], {"numba", "llvmlite", "torch", "PIL"}),
    ):
        result = subprocess.run(
            [sys.executable, "-c", script.format(arguments)], capture_output=True, text=True, cwd=ROOT, timeout=300
        )
        assert result.returncode == 0, result.stderr
        imported = set(re.findall(r"'([\w.]+)'", result.stdout.splitlines()[-1]))
        assert not imported & absent


def test_the_package_offers_its_names():
    for name in nanoinfer.__all__:
        assert getattr(nanoinfer, name) is not None and name in dir(nanoinfer)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        nanoinfer.nothing  # noqa: B018


def test_an_answer_that_is_no_number_is_an_error(run, tmp_path):
    arrays = dict(nanoinfer.create_model("digits").tensors)
    name = next(name for name in arrays if name.endswith("bias"))
    save_safetensors({**arrays, name: np.full_like(arrays[name], np.nan)}, tmp_path / "w.safetensors")
    code, out, err = run("predict", SAMPLES[0], "-m", "digits", "--weights", tmp_path / "w.safetensors")
    assert (code, out) == (2, "") and "no number; check the weights" in err


def test_nothing_is_converted_to_nothing(run, tmp_path):
    save_safetensors({}, tmp_path / "empty.safetensors")
    code, out, err = run("convert", tmp_path / "empty.safetensors", tmp_path / "new.safetensors")
    assert (code, out) == (2, "") and "holds no tensors" in err and not (tmp_path / "new.safetensors").exists()
