"""Predictor: batches of every kind, pickled and in other processes, with the bits of the command line."""

import io
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import nanoinfer
from nanoinfer.batch import predictor
from tests.cli.command_line import ROOT, SAMPLES

PATHS = [str(path) for path in SAMPLES]


@pytest.fixture(scope="module")
def digits():
    return nanoinfer.Predictor("digits", topk=3)


def same(first, second, names=("labels", "indices", "probabilities", "error", "model", "weights")):
    for name in names:
        np.testing.assert_array_equal(first[name], second[name])


def batches(contents):
    """{kind: the samples in a batch}."""
    pictures = [Image.open(io.BytesIO(content)).convert("RGB") for content in contents.values()]
    arrays = np.stack([np.asarray(picture) for picture in pictures])
    cells = np.empty(len(arrays), object)
    cells[:] = list(contents.values())
    return {
        "bytes": [*contents.values()],
        "views": [*map(memoryview, contents.values())],
        "PIL images": pictures,
        "an array": arrays,
        "arrays": [*arrays],
        "bytes of a data frame": cells,
        "pathlib": SAMPLES,
        "a column": {"image": arrays},
        "structs": {"image": [{"bytes": content, "path": None} for content in contents.values()]},
    }


def test_batches_of_every_kind_have_the_same_results(digits, contents):
    expected = digits(PATHS)
    assert expected["labels"].shape == (10, 3) and sum(expected["labels"][:, 0] == [*"0123456789"]) >= 9
    assert expected["indices"].dtype == np.int32 and expected["probabilities"].dtype == np.float64
    assert [*expected["error"]] == [None] * 10 and {*expected["model"]} == {"digits"}
    for batch in batches(contents).values():
        same(digits(batch), expected)


def test_results_are_those_of_the_command_line(digits, tmp_path):
    from nanoinfer.cli import main

    assert main(["predict", *PATHS, "--topk", "3", "-o", str(tmp_path / "o.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    same(digits(PATHS), {name: [row[name] for row in rows] for name in rows[0]})
    assert main(["embed", *PATHS, "-o", str(tmp_path / "e.npy")]) == 0
    vectors = nanoinfer.Predictor("digits", task="embed", batch_size=3)(PATHS)["embedding"]
    np.testing.assert_array_equal(vectors, np.load(tmp_path / "e.npy"))


def test_columns_are_kept_but_that_of_images(digits, contents):
    batch = {"id": np.arange(10), "content": [*contents.values()], "label": np.array(["a"] * 10)}
    columns = digits(batch)
    assert [*columns] == ["id", "label", "labels", "indices", "probabilities", "error", "model", "weights"]
    np.testing.assert_array_equal(columns["id"], batch["id"])
    chosen = nanoinfer.Predictor("digits", topk=3, column="photo")({"photo": PATHS, "image": [0] * 10})
    same(chosen, columns, ("labels",))
    for wrong, message in (
        ({"picture": PATHS}, "say which of picture holds the images"),
        ({"image": PATHS, "labels": PATHS}, "has a column 'labels'"),
        ("photo.jpg", "put a single one into a list"),
        (7, "put a single one into a list"),
    ):
        with pytest.raises(nanoinfer.InputError, match=message):
            digits(wrong)


def test_broken_images_have_an_error(digits):
    columns = digits([PATHS[0], b"none", None, np.zeros((2, 2, 7), np.uint8), "none.png", {"bytes": None}, PATHS[1]])
    good = [error is None for error in columns["error"]]
    assert good == [True, False, False, False, False, False, True]
    same({name: column[good] for name, column in columns.items()}, digits(PATHS[:2]))
    assert columns["labels"][1][0] == "" and columns["indices"][1][0] == -1 and np.isnan(columns["probabilities"][1][0])
    assert columns["error"][1].startswith("image 1: not an image") and "none.png: no such file" in columns["error"][4]
    vectors = nanoinfer.Predictor("digits", task="embed")([b"none"])["embedding"]
    assert vectors.shape == (1, 448) and np.isnan(vectors).all()
    assert digits([])["labels"].shape == (0, 3)


def test_copies_of_one_process_share_a_model(digits, monkeypatch):
    text = pickle.dumps(digits)
    assert len(text) < 500
    model = digits.model
    monkeypatch.setattr("nanoinfer.model.create_model", None)  # nothing is read again
    assert pickle.loads(text).model is model and nanoinfer.Predictor("digits", topk=1).model is model
    monkeypatch.undo()
    given = nanoinfer.Predictor(nanoinfer.create_model("digits"))
    first, second = pickle.loads(pickle.dumps(given)), pickle.loads(pickle.dumps(given))
    assert first.model is second.model is given.model
    odd = nanoinfer.Predictor("digits", labels=[*"abcdefghij"])  # a list is no key
    assert pickle.loads(pickle.dumps(odd)).model is odd.model and odd.model is not model
    assert odd([PATHS[0]])["labels"][0, 0] == "a"


def test_a_copy_in_another_process_has_the_same_bits(digits, tmp_path):
    for threads in (1, 2):
        copy = nanoinfer.Predictor("digits", topk=3, threads=threads)
        (tmp_path / "p").write_bytes(pickle.dumps((copy, PATHS)))
        code = "import pickle, sys; f, x = pickle.load(sys.stdin.buffer); pickle.dump(f(x), sys.stdout.buffer)"
        with open(tmp_path / "p", "rb") as file:
            done = subprocess.run([sys.executable, "-c", code], stdin=file, capture_output=True, cwd=ROOT, check=True)
        same(pickle.loads(done.stdout), digits(PATHS))


@pytest.mark.cluster
def test_data_frames(digits, contents):
    import pandas

    frame = pandas.DataFrame({"content": [*contents.values()], "path": PATHS}, index=range(5, 15))
    [result] = digits.pandas([frame])
    assert [*result["path"]] == PATHS and [*result["labels"][0]] == [*digits(PATHS)["labels"][0]]
    [lost] = digits.pandas([pandas.DataFrame({"content": [b"none", contents["digit_0.png"]]})])
    assert lost["labels"][0] is None and lost["error"][0] is not None
    assert [*lost["labels"][1]] == [*digits(PATHS)["labels"][0]] and lost["error"][1] is None


def test_wrong_arguments_are_refused():
    for arguments, options, message in (
        (("digit",), {}, "did you mean digits"),
        (("digits",), {"task": "classify"}, "give one of predict, embed"),
        (("digits",), {"topk": 0}, "whole number from 1"),
        (("digits",), {"batch_size": True}, "whole number from 1"),
        ((nanoinfer.create_model("digits"), "w.pth"), {}, "or a Model alone"),
        ((7,), {}, "or a Model alone"),
    ):
        with pytest.raises(nanoinfer.InputError, match=message):
            nanoinfer.Predictor(*arguments, **options)
    with pytest.raises(nanoinfer.InputError, match="task='embed'"):
        nanoinfer.Predictor("digits", "random", num_classes=0)(PATHS)


def test_models_of_a_name_are_made_once(monkeypatch):
    monkeypatch.setattr(predictor, "_models", {})
    one, two = nanoinfer.Predictor("digits", threads=1), nanoinfer.Predictor("digits", threads=1, task="embed")
    assert one.model is two.model and one.model.threads == 1
    assert nanoinfer.Predictor("digits", threads=2).model is not one.model
