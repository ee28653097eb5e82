"""Images: the bits of torchvision's and timm's own pipelines, every kind of file, and bad input."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from nanoinfer.architectures import MODELS, Preprocessing
from nanoinfer.image import open_image, preprocess
from nanoinfer.preprocessing import CROP_MODES, INTERPOLATIONS
from nanoinfer.reports.torch_reference import import_torchvision
from tests.helpers import noise, refused, refused_image

SIZES = [(640, 480), (481, 641), (224, 224), (256, 256), (257, 300), (31, 500), (500, 31), (1, 1), (1023, 767), (3, 2)]
SETTINGS = {
    "bicubic": Preprocessing(resize=256, interpolation="bicubic"),
    "bilinear": Preprocessing(resize=256),
    "odd": Preprocessing(resize=201, crop=(135, 180), mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.7)),
    "padded": Preprocessing(resize=64, crop=(97, 224)),
    "digits": MODELS["digits"].preprocessing,
}


def torchvision_input(image, setting):
    """The input that torchvision's own transforms make of a PIL image."""
    import_torchvision()
    from torchvision import transforms

    pipeline = transforms.Compose(
        [
            transforms.Resize(setting.resize, transforms.InterpolationMode(setting.interpolation)),
            transforms.CenterCrop(setting.crop),
            transforms.ToTensor(),
            transforms.Normalize(setting.mean, setting.std),
        ]
    )
    return pipeline(image.convert("RGB")).numpy()


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_preprocess_equals_torchvision(setting):
    images = [noise(*size, seed=seed) for seed, size in enumerate(SIZES)]
    x = preprocess(images, setting)
    assert x.shape == (len(images), 3, *setting.crop) and x.dtype == np.float32 and x.flags.c_contiguous
    for image, row in zip(images, x, strict=True):
        np.testing.assert_array_equal(row, torchvision_input(image, setting), err_msg=str(image.size), strict=True)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_preprocess_of_every_mode_equals_torchvision(mode):
    image = noise(300, 200, mode)
    np.testing.assert_array_equal(
        preprocess(image, SETTINGS["bicubic"])[0], torchvision_input(image, SETTINGS["bicubic"])
    )


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize("size, crop_pct", [((96, 96), 0.875), ((96, 96), 1.0), ((64, 112), 0.9), ((97, 50), 1.0)])
def test_preprocess_equals_timm(interpolation, crop_mode, size, crop_pct):
    import_torchvision()  # timm imports torchvision, whose compiled operators may be absent
    from timm.data import create_transform

    mean = (0.5, 0.4, 0.3)
    options = {"interpolation": interpolation, "crop_mode": crop_mode, "mean": mean}
    pipeline = create_transform((3, *size), crop_pct=crop_pct, **options)
    resize = tuple(math.floor(side / crop_pct) for side in size)
    setting = Preprocessing(resize[0] if resize[0] == resize[1] else resize, size, **options)
    for seed, image_size in enumerate([(640, 480), (97, 131), (96, 96), (31, 200), (3, 2)]):
        image = noise(*image_size, seed=seed)
        x = preprocess(image, setting)[0]
        np.testing.assert_array_equal(x, pipeline(image).numpy(), err_msg=str(image_size), strict=True)


def test_paths_images_and_arrays_give_the_same(tmp_path):
    image = noise(40, 30)
    path = tmp_path / "a.png"
    image.save(path)
    expected = np.asarray(image)
    for source in (path, str(path), image, Image.open(path), expected, expected[::-1][::-1]):
        np.testing.assert_array_equal(np.asarray(open_image(source)), expected)
    setting = SETTINGS["bilinear"]
    x = preprocess([path, image], setting)
    np.testing.assert_array_equal(x[0], x[1])
    for source in (str(path), path, image, expected, [expected], expected[None]):
        np.testing.assert_array_equal(preprocess(source, setting), x[:1])


def test_grey_array_becomes_rgb():
    grey = np.arange(200, dtype=np.uint8).reshape(10, 20)
    np.testing.assert_array_equal(np.asarray(open_image(grey)), np.repeat(grey[:, :, None], 3, 2))


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "P", "1", "CMYK", "YCbCr"])
def test_grey_equals_pillows_convert(mode):
    image = noise(300, 200).convert(mode) if mode in ("P", "1") else noise(300, 200, mode)
    setting = Preprocessing(resize=64, crop=48, mean=(0.4,), std=(0.2,))
    np.testing.assert_array_equal(np.asarray(open_image(image, "L")), np.asarray(image.convert("L")))
    x = preprocess(image, setting)
    assert x.shape == (1, 1, 48, 48)
    import_torchvision()
    from torchvision import transforms

    steps = [transforms.Resize(64), transforms.CenterCrop(48), transforms.ToTensor(), transforms.Normalize(0.4, 0.2)]
    np.testing.assert_array_equal(x[0], transforms.Compose(steps)(image.convert("L")).numpy())
    pixels = np.asarray(image.convert("L"))
    np.testing.assert_array_equal(preprocess(pixels, setting), x)


@pytest.mark.parametrize("crop_mode", ["center", "border"])
def test_thin_strip_is_refused(crop_mode):
    with refused("1 x 30000 pixels are too long and thin"):
        preprocess(np.zeros((30000, 1), np.uint8), Preprocessing(resize=256, crop_mode=crop_mode))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.int64),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4,), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
    ids=str,
)
def test_bad_arrays_are_refused(array):
    refused_image(array, "uint8", str(array.shape))


class Closed:
    """An open file that can no longer be read."""

    def read(self):
        raise ValueError("shut")


def test_other_bad_sources_are_refused():
    refused_image(None, "NoneType")
    refused_image(b"bytes", "not an image")
    refused_image(io.StringIO("text"), "StringIO")
    refused_image(Closed(), "Closed", "shut")
    refused_image(Image.new("F", (4, 4)), "32-bit")
    refused_image(Image.new("I", (4, 4)), "32-bit")
    refused_image(Image.new("RGB", (0, 4)), "without pixels")
    for images, part in ((3, "int"), ([], "at least one"), ([None], "NoneType")):
        with refused(part):
            preprocess(images, SETTINGS["bilinear"])


def test_open_image_leaves_the_callers_image_unchanged():
    image = noise(20, 10)
    image.getexif()[0x0112] = 6
    before = image.tobytes()
    assert open_image(image).size == (10, 20)
    assert image.size == (20, 10) and image.tobytes() == before
