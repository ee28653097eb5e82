"""nanoinfer embed: tables of images and vectors."""

import csv
import io
import json
import sys

import numpy as np

import nanoinfer
from nanoinfer.cli.images import format_of
from tests.cli.command_line import SAMPLES, process, refused


def test_table_shows_the_start_of_each_vector(run, models, photo):
    code, out, err = run("embed", photo, photo, "-m", "resnet18", "--weights", "w.pth", "--image-size", 96)
    assert (code, err) == (0, "") and out.count(str(photo)) == 2 and "1.333 1.667 2 2.333" not in out
    assert "dimensions" in out and "1 1.333 1.667 2" in out and "2 2.333 2.667 3" in out
    assert models[0].options == {"image_size": 96} and models[0].weights == "w.pth"


def test_json_csv_and_npy_hold_the_same_numbers(run, tmp_path):
    expected = nanoinfer.create_model("digits").embed(SAMPLES[:2])
    for name in ("e.json", "e.csv", "e.npy"):
        assert run("embed", *SAMPLES[:2], "-o", tmp_path / name) == (0, "", "")
    items = json.loads((tmp_path / "e.json").read_text())
    assert [item["file"] for item in items] == [str(path) for path in SAMPLES[:2]]
    np.testing.assert_array_equal(np.array([item["embedding"] for item in items], np.float32), expected)
    header, *rows = csv.reader(io.StringIO((tmp_path / "e.csv").read_text()))
    assert header == ["file", *(f"e{index}" for index in range(448))] and rows[1][0] == str(SAMPLES[1])
    np.testing.assert_array_equal(np.array([row[1:] for row in rows], np.float32), expected)
    array = np.load(tmp_path / "e.npy", allow_pickle=False)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, expected)
    for form, name in (("json", "e.json"), ("csv", "e.csv")):
        code, out, _ = run("embed", *SAMPLES[:2], "--format", form)
        assert code == 0 and out == (tmp_path / name).read_text()


def test_bad_image_has_no_row_or_one_of_nan(run, models, photo, tmp_path):
    for form in ("table", "json", "csv"):
        code, out, err = run("embed", "none.jpg", photo, "--format", form)
        assert code == 1 and "none.jpg" not in out and "photo.jpg" in out and "none.jpg: no such file" in err
    code, _, err = run("embed", "none.jpg", photo, "-o", tmp_path / "e.npy")
    assert code == 1 and "none.jpg: no such file" in err
    array = np.load(tmp_path / "e.npy")
    assert np.isnan(array[0]).all() and np.isfinite(array[1]).all() and array.shape == (2, 5)
    assert run("embed", "none.jpg", "-o", tmp_path / "f.npy")[0] == 2 and not (tmp_path / "f.npy").exists()


def test_wrong_outputs_are_refused(run, models, photo, tmp_path, monkeypatch):
    refused(
        run("embed", photo, "-o", tmp_path / "e.txt"),
        "e.txt: end its name in .json, .jsonl, .csv, .npy, .parquet or .arrow",
    )
    refused(run("embed", photo, "-o", tmp_path / "e.npy", "--format", "table"), "end its name")
    refused(run("embed", photo, "-o", tmp_path / "no" / "e.csv"), "e.csv", "No such file")
    refused(run("embed"), "IMAGE")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    refused(run("embed", photo, "--format", "npy"), "binary data; give a file: -o embeddings.npy")
    assert format_of("embed", "csv", "e.npy") == "csv" and format_of("embed", None, None) == "table"


def test_npy_goes_to_a_pipe(monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    result = process("embed", SAMPLES[0], "--format", "npy", text=False)
    assert result.returncode == 0 and np.load(io.BytesIO(result.stdout)).shape == (1, 448)
