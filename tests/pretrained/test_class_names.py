"""Names of classes: files of labels, labels of one logit, and probabilities."""

import json
import math

import numpy as np
import pytest

import nanoinfer
from nanoinfer.pretrained.labels import most_probable, read_labels
from tests.helpers import noise, refused

CLASSES = [str(digit) for digit in range(10)]
NAMES = ("zero", "one", "two")


@pytest.mark.parametrize(
    "text",
    [
        "zero\none\ntwo\n",
        "\ufeffzero\r\n  one \r\n\r\ntwo",
        '["zero", "one", "two"]',
        '{"0": "zero", "2": "two", "1": "one"}',
        '{"zero": 0, "one": 1, "two": 2}',
        '{"0": ["n0", "zero"], "1": ["n1", "one"], "2": ["n2", "two"]}',
        '{"model_type": "vit", "id2label": {"0": "zero", "1": "one", "2": "two"}}',
        '{"label_names": ["zero", "one", "two"]}',
        '{"class_to_idx": {"zero": 0, "one": 1, "two": 2}}',
    ],
)
def test_files_of_labels(tmp_path, text):
    (tmp_path / "names").write_bytes(text.encode())
    assert read_labels(tmp_path / "names") == NAMES


def test_labels_have_no_control_characters(tmp_path):
    for text in ("a\x1b[2Jb\nc", json.dumps(["a\x1b[2Jb", "c"])):
        (tmp_path / "names").write_text(text)
        assert read_labels(tmp_path / "names") == ("a\\x1b[2Jb", "c")


@pytest.mark.parametrize(
    "content, part",
    [
        (b"", "has no labels"),
        (b"\n \n", "has no labels"),
        (b"\xff\xfe\x00", "is no text in UTF-8"),
        (b"[1, 2", "is no JSON, although it starts like it"),
        (b"[" * 100_000, "is no JSON"),
        (b"{}", "has no labels"),
        (b'{"a": {"b": 1}}', "keys are not the numbers of classes"),
    ],
)
def test_bad_files_of_labels_are_refused(tmp_path, content, part):
    (tmp_path / "names").write_bytes(content)
    with refused("names", part):
        read_labels(tmp_path / "names")
    with refused("nowhere: No such file"):
        read_labels(tmp_path / "nowhere")


def test_caller_gives_labels(tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(f"digit {name}" for name in CLASSES))
    for labels in (tmp_path / "names.txt", [f"digit {name}" for name in CLASSES]):
        model = nanoinfer.create_model("digits", labels=labels)
        assert model.labels[7] == "digit 7" and model.predict(noise(9, 9))[0][0][0].startswith("digit ")
    with refused("labels gives 3 labels, but the network has 10 classes; give as many"):
        nanoinfer.create_model("digits", labels=NAMES)
    with refused("labels are a sequence of names"):
        nanoinfer.create_model("digits", labels=[0, 1])
    with refused("nowhere.txt: No such file"):
        nanoinfer.create_model("digits", labels="nowhere.txt")


def single(bias, **options):
    """The digits network with a single logit, which is `bias` for any image."""
    arrays = dict(nanoinfer.create_model("digits").tensors)
    head = {"fc.weight": np.zeros((1, 448), np.float32), "fc.bias": np.array([bias], np.float32)}
    return nanoinfer.create_model("digits", {**arrays, **head}, preprocessing={}, **options)


def test_single_logit_is_a_binary_classifier():
    for bias in (-100.0, -2.0, 0.0, 3.0):
        positive = 1 / (1 + math.exp(-bias))
        (first, second), (best,) = (single(bias).predict(noise(9, 9), topk)[0] for topk in (2, 1))
        expected = {("class 1", 1): positive, ("class 0", 0): 1 - positive}
        assert {(label, index): pytest.approx(p) for label, index, p in (first, second)} == expected
        assert best == first and first[2] >= second[2]
    assert single(0.0, labels=["cat", "dog"]).labels == ("cat", "dog")
    assert single(0.0, labels=["dog"]).labels == ("not dog", "dog")
    with refused("gives 3 labels, but the network has 1 classes"):
        single(0.0, labels=NAMES)


def test_probabilities_that_are_no_numbers_are_refused():
    logits = np.zeros((3, 3), np.float32)
    logits[1, 2] = np.nan
    with refused("the network's answer for image 2 of 3 is no number; check the weights"):
        most_probable(logits, NAMES, 1)
    for value in (np.nan, np.inf):
        with refused("the network's answer is no number"):
            most_probable(np.array([[value, 0, 0]], np.float32), NAMES, 1)
        with refused("the network's answer is no number; check the weights"):
            single(np.nan).predict(noise(9, 9))
    assert most_probable(np.array([[-np.inf, 0, -np.inf]], np.float32), NAMES, 1) == [[("one", 1, 1.0)]]
    assert most_probable(np.array([[-np.inf]], np.float32), ("no", "yes"), 2) == [[("no", 0, 1.0), ("yes", 1, 0.0)]]


def test_labels_of_a_config_that_do_not_fit_are_left_out_and_said_so(tmp_path):
    from safetensors.numpy import save_file

    tensors = {name: np.asarray(array) for name, array in nanoinfer.create_model("digits").tensors.items()}
    save_file(tensors, tmp_path / "w.safetensors")
    for names, labels, noted in (
        (["a"] * 11, CLASSES, "has 11 labels in config.json for a head of 10 classes: they are not used"),
        ({"3": "three", "9": "nine"}, [*(f"class {i}" for i in range(3)), "three"], None),
        (["x"], ["x", "class 1"], None),
    ):
        (tmp_path / "config.json").write_text(json.dumps({"architecture": "digits", "label_names": names}))
        model = nanoinfer.create_model("digits", tmp_path / "w.safetensors")
        assert list(model.labels[: len(labels)]) == labels and len(model.labels) == 10
        assert model.meaning.notes == ((noted,) if noted else ())
