"""nanoinfer predict: the rows of every format, and images that cannot be read."""

import csv
import io
import json
import os
import re

import numpy as np
from nanoinfer.weights import save_safetensors
from PIL import Image

import nanoinfer
from tests.cli.command_line import ROOT, SAMPLES, refused


def test_predict_without_images_classifies_samples(run, models, monkeypatch):
    monkeypatch.chdir(ROOT)
    code, out, err = run("predict")
    assert (code, err) == (0, "")
    rows = re.findall(r"^(\S+)digit_(\d)\.png +(\d) +50\.0% +[\d.]+ *$", out, re.MULTILINE)
    folder = os.path.join("nanoinfer", "data", "digits", "")
    assert rows == [(folder, str(i), str((i + 1) % 10)) for i in range(10)]
    assert models[0].architecture.name == "digits"
    assert models[0].shapes == [(1, 3, 96, 96)] * 11  # one call that is not timed


def test_table_names_file_in_first_row_only(run, models, photo):
    code, out, _ = run("predict", photo, photo, "-m", "mobilenetv3_small_100", "--weights", "w.pth", "--threads", "2")
    lines = [line for line in out.splitlines() if "%" in line]
    assert code == 0 and len(lines) == 10
    assert [str(photo) in line for line in lines] == [True, False, False, False, False] * 2
    assert "goldfish" in lines[0]
    assert (models[0].weights, models[0].threads, models[0].shapes[0]) == ("w.pth", 2, (1, 3, 224, 224))


def test_json_and_csv_have_the_same_labels(run, models, photo):
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


def test_topk_is_limited_to_classes(run, models, photo):
    _, out, _ = run("predict", photo, "--topk", "1000", "--format", "json")
    assert len(json.loads(out)[0]["predictions"]) == 10


def test_file_names_are_neither_cut_nor_interpreted(run, models, tmp_path):
    path = tmp_path / ("long " * 30 + "[red]x ü.png")
    Image.new("L", (8, 8)).save(path)
    for topk in (1, 2):
        _, out, _ = run("predict", path, "--topk", topk)
        assert str(path) in out
    _, out, _ = run("predict", path, "--format", "json")
    assert json.loads(out)[0]["file"] == str(path)


def test_bad_image_does_not_stop_others(run, models, photo, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    for form in ("table", "csv", "json"):
        code, out, err = run("predict", tmp_path / "bad.png", photo, tmp_path / "none.png", "--format", form)
        assert code == 1 and "photo.jpg" in out and "bad.png" not in out
        assert re.fullmatch(
            r"nanoinfer: \S*bad\.png: not an image.*\nnanoinfer: \S*none\.png: no such file; check the path\n", err
        )


def test_bad_images_alone_print_no_table(run, models, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:2000])
    refused(run("predict", tmp_path / "half.jpg"), "half.jpg: damaged image")
    (tmp_path / "empty").mkdir()
    refused(run("predict", tmp_path / "empty"), "empty: is a folder without images")


def test_nan_logits_are_an_error(run, tmp_path):
    arrays = dict(nanoinfer.create_model("digits").tensors)
    name = next(name for name in arrays if name.endswith("bias"))
    save_safetensors({**arrays, name: np.full_like(arrays[name], np.nan)}, tmp_path / "w.safetensors")
    code, out, err = run("predict", SAMPLES[0], "-m", "digits", "--weights", tmp_path / "w.safetensors")
    assert (code, out) == (2, "") and "no number; check the weights" in err


def test_animation_is_said_to_be_one(run, models, tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    code, out, err = run("predict", tmp_path / "a.gif")
    assert code == 0 and "a.gif" in out
    assert err == f"nanoinfer: warning: {tmp_path / 'a.gif'}: holds several pictures; the first one is taken\n"
