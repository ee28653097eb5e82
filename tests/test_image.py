"""Images: the bits of torchvision's and timm's own pipelines, every kind of file, and bad input."""

import struct
import warnings
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from nanoinfer.architectures import MODELS, Preprocessing
from nanoinfer.image import open_image, preprocess
from nanoinfer.reports.torch_reference import import_torchvision
from tests.helpers import refused

SIZES = [(640, 480), (481, 641), (224, 224), (256, 256), (257, 300), (31, 500), (500, 31), (1, 1), (1023, 767), (3, 2)]
SETTINGS = {
    "bicubic": Preprocessing(resize=256, interpolation="bicubic"),
    "bilinear": Preprocessing(resize=256),
    "odd": Preprocessing(resize=201, crop=(135, 180), mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.7)),
    "padded": Preprocessing(resize=64, crop=(97, 224)),
    "digits": MODELS["digits"].preprocessing,
}


def noise(width, height, mode="RGB", seed=0):
    """An image of random pixels, in which every filter weight and every rounding shows."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return Image.frombytes(mode, (width, height), pixels.tobytes())


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


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_preprocess_equals_timm(interpolation):
    import_torchvision()  # timm imports torchvision, whose compiled operators may be absent
    from timm.data import create_transform

    pipeline = create_transform((3, 224, 224), interpolation=interpolation, crop_pct=0.875)
    setting = Preprocessing(resize=256, interpolation=interpolation)
    for seed, size in enumerate(SIZES):
        image = noise(*size, seed=seed)
        np.testing.assert_array_equal(preprocess(image, setting)[0], pipeline(image).numpy(), err_msg=str(size))


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


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
def test_exif_orientation_is_applied(tmp_path, orientation, kind):
    stored = np.zeros((24, 48, 3), np.uint8)
    stored[:12, :24] = 255, 0, 0  # red in one corner, green in its neighbour along the row
    stored[:12, 24:] = 0, 255, 0
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{kind}"
    Image.fromarray(stored).save(path, exif=exif, quality=95)
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: np.rot90(stored, -1),
        7: np.rot90(stored, 2).swapaxes(0, 1),
        8: np.rot90(stored),
    }[orientation]
    for source in (path, Image.open(path)):
        image = np.asarray(open_image(source)).astype(int)
        assert image.shape == upright.shape
        middle = np.s_[6::12, 6::12]  # away from the edges, which JPEG smears
        assert np.abs(image[middle] - upright[middle]).max() < 16


def test_unreadable_exif_is_ignored(tmp_path):
    image = noise(16, 16)
    for exif in (b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\0"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.save(tmp_path / "a.png", exif=exif)
            np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "a.png")), np.asarray(image))


@pytest.mark.parametrize("kind", ["png", "tif", "pgm"])
def test_sixteen_bit_files_are_scaled_to_eight(tmp_path, kind):
    values = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(values).save(tmp_path / f"a.{kind}")
    grey = np.asarray(open_image(tmp_path / f"a.{kind}"))[:, :, 0]
    np.testing.assert_array_equal(grey, np.rint(values / 257))


def test_big_endian_sixteen_bit_image_is_scaled_to_eight():
    image = Image.frombytes("I;16B", (2, 1), b"\x00\x00\x80\x00")
    assert np.asarray(open_image(image))[0, :, 0].tolist() == [0, 128]


@pytest.mark.parametrize("mode", ["P", "1", "L", "LA", "RGBA", "CMYK"])
def test_files_of_every_mode_equal_pillows_convert(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    options = {"transparency": bytes(range(256))} if mode == "P" else {}
    noise(32, 32).convert(mode).save(path, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = np.asarray(open_image(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of the palette's transparency
        np.testing.assert_array_equal(result, np.asarray(Image.open(path).convert("RGB")))


def test_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(open_image(tmp_path / "a.gif"))[0, 0].tolist() == [255, 0, 0]


def refused_image(source, *parts):
    with refused(*parts):
        open_image(source)


def test_bad_files_are_refused(tmp_path):
    for name, content in {
        "empty.jpg": b"",
        "text.png": b"not an image",
        "weights.pth": b"PK\x03\x04" + bytes(60),
    }.items():
        (tmp_path / name).write_bytes(content)
        refused_image(tmp_path / name, name, "not an image")
    refused_image(tmp_path / "nowhere.jpg", "nowhere.jpg", "no such file")
    refused_image(tmp_path, tmp_path.name, "folder")
    refused_image("a\0b.png", "null")
    refused_image("", "no such file")


@pytest.mark.parametrize("kind", ["jpg", "png", "gif", "tif", "webp", "bmp"])
def test_truncated_files_are_refused(tmp_path, kind):
    noise(64, 64).save(tmp_path / "whole", {"jpg": "JPEG", "tif": "TIFF"}.get(kind, kind))
    whole = (tmp_path / "whole").read_bytes()
    for part in (len(whole) // 2, len(whole) - len(whole) // 10):
        path = tmp_path / f"half.{kind}"
        path.write_bytes(whole[:part])
        refused_image(path, path.name, "image")


def test_huge_images_are_not_decoded(tmp_path):
    header = b"IHDR" + struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "bomb.png").write_bytes(data + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))
    refused_image(tmp_path / "bomb.png", "bomb.png", "million pixels")


def test_thin_strip_is_refused():
    with refused("1 x 30000 pixels are too long and thin"):
        preprocess(np.zeros((30000, 1), np.uint8), SETTINGS["bilinear"])


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


def test_other_bad_sources_are_refused():
    refused_image(None, "NoneType")
    refused_image(b"bytes", "bytes")
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


def test_preprocess_takes_any_object_with_the_fields():
    setting = SimpleNamespace(resize=8, crop=(8, 8), interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))
    assert preprocess(np.full((8, 8), 255, np.uint8), setting).tolist() == np.ones((1, 3, 8, 8)).tolist()
