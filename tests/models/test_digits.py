"""The digits network, whose weights and test images the package holds."""

import json

import numpy as np
import pytest
from PIL import Image

import nanoinfer
from nanoinfer.data import FOLDER
from tests.helpers import DIGITS


def test_predict_takes_paths_images_and_arrays():
    model = nanoinfer.create_model("digits")
    path = DIGITS / "digit_3.png"
    array = np.asarray(Image.open(path).convert("RGB"))
    expected = model.predict(path)
    assert expected[0][0][:2] == ("3", 3) and len(expected[0]) == 5
    assert model.predict(str(path)) == model.predict(Image.open(path)) == model.predict(array) == expected
    assert model.predict([path, array, Image.open(path)]) == 3 * expected
    [best] = model.predict([path], topk=10)
    probabilities = [probability for _, _, probability in best]
    assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) == pytest.approx(1)
    assert [(label, index) for label, index, _ in sorted(best, key=lambda row: row[1])] == [
        (str(i), i) for i in range(10)
    ]


def test_at_most_one_of_ten_samples_is_wrong():
    model = nanoinfer.create_model("digits")
    paths = sorted(DIGITS.glob("*.png"))
    assert [path.name for path in paths] == [f"digit_{digit}.png" for digit in range(10)]
    found = [best[0][1] for best in model.predict(paths, topk=1)]
    assert sum(index != digit for digit, index in enumerate(found)) <= 1, found


def test_recorded_accuracy_is_reached():
    record = json.loads((FOLDER / "digits.json").read_text())
    with np.load(FOLDER / "digits_test.npz") as file:
        scans, labels = file["scans"], file["labels"]
    model = nanoinfer.create_model("digits")
    # A scan has values 0 to 16.
    images = [Image.fromarray(np.rint(scan * (255 / 16)).astype(np.uint8)) for scan in scans]
    found = np.concatenate([model(model.preprocess(images[i : i + 45])).argmax(1) for i in range(0, len(images), 45)])
    correct = int((found == labels).sum())
    assert (correct, len(labels)) == (record["correct"], record["total"])
    assert correct / len(labels) == record["accuracy"] >= 0.98
