"""The record of a preprocessing: its forms, its changes, and what it says."""

import pickle

import pytest

from nanoinfer.preprocessing import Preprocessing
from tests.helpers import refused


def test_forms_of_sizes():
    setting = Preprocessing(256, 224, source="someone")
    assert setting == Preprocessing(resize=256, crop=(224, 224)) and setting.rectangle == (256, 256)
    assert Preprocessing((40, 30), [20, 10]).crop == (20, 10) and Preprocessing([64]).resize == (64, 64)
    assert setting.channels == 3 and Preprocessing(9, mean=0.5, std=0.5).channels == 1
    assert pickle.loads(pickle.dumps(setting)).source == "someone" and hash(setting) == hash(Preprocessing(256, 224))


@pytest.mark.parametrize(
    "fields, part",
    [
        ({"resize": 0}, "resize=0: give a whole number of pixels above 0"),
        ({"resize": 1 << 20}, "up to 100,000"),
        ({"resize": True}, "resize=True"),
        ({"resize": 2.5}, "resize=2.5: give a number of pixels, or (height, width)"),
        ({"resize": (1, 2, 3)}, "resize=(1, 2, 3)"),
        ({"crop": (0, 1)}, "crop=0"),
        ({"crop": "224"}, "crop=224: give a number of pixels"),
        ({"interpolation": "cubic"}, "interpolation='cubic': give one of nearest, box, bilinear"),
        ({"crop_mode": None}, "crop_mode='None': give one of center, border, squash"),
        ({"mean": ()}, "mean=(): give one number for each channel"),
        ({"mean": "abc"}, "mean=abc"),
        ({"mean": (0, 0, float("nan"))}, "nan"),
        ({"mean": (0, 0)}, "mean has 2 numbers, std 3"),
        ({"std": (1, 1, 0)}, "std=(1.0, 1.0, 0.0): give numbers above 0"),
    ],
)
def test_other_forms_are_refused(fields, part):
    with refused(part):
        Preprocessing(**{"resize": 256, **fields})


def test_another_size_keeps_the_ratio_of_resize_to_crop():
    assert Preprocessing(256).at(384) == Preprocessing(438, 384)  # timm: floor(384 / 0.875)
    assert Preprocessing(235).at(288) == Preprocessing(302, 288)
    assert Preprocessing(256).at((224, 448)) == Preprocessing((256, 512), (224, 448))
    assert Preprocessing((60, 90), (40, 60)).at(80) == Preprocessing((120, 120), (80, 80))
    assert Preprocessing(256).at(224) == Preprocessing(256)


def test_other_channels_take_the_averages():
    grey = Preprocessing(256, mean=(0.2, 0.3, 0.7), std=(0.1, 0.2, 0.6)).for_channels(1)
    assert grey.mean == (pytest.approx(0.4),) and grey.std == (pytest.approx(0.3),)
    assert grey.for_channels(3).mean == grey.mean * 3 and grey.for_channels(1) is grey
    assert Preprocessing(256).for_channels(12).channels == 1


def test_options_change_fields_and_say_so():
    base = Preprocessing(256, source="the publisher")
    assert base.with_options({}, "as given") is base and base.with_options({"resize": None}, "as given") is base
    changed = base.with_options({"mean": 0.5, "interpolation": "bicubic"}, "as given")
    assert changed == Preprocessing(256, interpolation="bicubic", mean=(0.5,) * 3)
    assert changed.source == "mean, interpolation as given; else the publisher"
    assert base.with_options({"crop": 112}, "as given") == Preprocessing(128, 112)
    assert base.with_options({"crop": 112, "resize": 120}, "as given") == Preprocessing(120, 112)
    with refused("preprocessing has no field 'interpolate'; did you mean interpolation?"):
        base.with_options({"interpolate": "bicubic"}, "as given")


def test_text():
    setting = Preprocessing((240, 300), (224, 280), "bicubic", 0.5, 0.25, "squash")
    assert str(setting) == "resize 240 x 300 bicubic, crop 224 x 280 (squash), mean 0.5, std 0.25"
    assert str(Preprocessing(232)).startswith("resize 232 bilinear, crop 224 x 224, mean 0.485 0.456 0.406, std 0.229")
