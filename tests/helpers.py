"""Shared by tests of every folder: the list of networks, random images, and the check of an error message."""

import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nanoinfer
from nanoinfer.data import FOLDER
from nanoinfer.image import open_image

TABLES = Path(__file__).parent / "data"  # numbers that others have published
DIGITS = FOLDER / "digits"  # ten images of the package, digit_0.png to digit_9.png
DIGITS_WEIGHTS = FOLDER / "digits.safetensors"

NETWORKS = {  # name: (arguments, height and width) of a small version of the published network
    "mobilenetv2_140": ({}, (96, 64)),
    "mobilenetv3_small_100": ({}, (96, 64)),
    "resnext50_32x4d": ({}, (96, 64)),
    "vit_b_32": ({"image_size": 64}, (64, 64)),
    "mobilenet_v2": ({}, (96, 64)),
    "mobilenetv2_article": ({}, (96, 64)),
}
ARTICLE_WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.4)


def random_images(count=1, size=(96, 96), seed=0):
    """Normally distributed float32 (count, 3, height, width)."""
    return np.random.default_rng(seed).standard_normal((count, 3, *size), np.float32)


@contextmanager
def refused(*parts, one_line=True):
    """Expect an InputError whose message has `parts` in this order and, unless told otherwise, no line break.

    Yields pytest's ExceptionInfo.
    """
    pattern = ".*".join(re.escape(part) for part in parts)
    with pytest.raises(nanoinfer.InputError, match=f"(?s){pattern}") as caught:
        yield caught
    message = str(caught.value)
    assert not (one_line and "\n" in message), message


def noise(width, height, mode="RGB", seed=0):
    """An image of random pixels, in which every filter weight and every rounding shows."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return Image.frombytes(mode, (width, height), pixels.tobytes())


def refused_image(source, *parts):
    with refused(*parts):
        open_image(source)
