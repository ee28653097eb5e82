"""Images: the bits of torchvision's and timm's own pipelines, every kind of file, and bad input."""

import io
import math
import struct
import sys
import warnings
import zlib
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, features

from nanoinfer.architectures import MODELS, Preprocessing
from nanoinfer.image import open_image, preprocess
from nanoinfer.preprocessing import CROP_MODES, INTERPOLATIONS
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


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tif"])
def test_animation_gives_its_first_frame_and_says_so(tmp_path, kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:], lossless=True)
    with pytest.warns(UserWarning, match=f"a.{kind}: holds several pictures; the first one is taken"):
        image = open_image(tmp_path / f"a.{kind}")
    assert np.asarray(image)[0, 0].tolist() == [255, 0, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frames[0].save(tmp_path / f"one.{kind}")
        open_image(tmp_path / f"one.{kind}")
        opened = Image.open(tmp_path / f"a.{kind}")
        opened.seek(1)  # a caller's image is taken as it stands
        assert np.asarray(open_image(opened))[0, 0].tolist() == [0, 0, 255]


def test_picture_of_a_phone_is_no_animation(tmp_path):
    noise(16, 16).save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[noise(16, 16, seed=1)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(tmp_path / "a.jpg").size == (16, 16)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "MPO" and image.n_frames == 2


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
def test_colour_profile_is_left_alone(tmp_path, kind):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    noise(16, 16).save(tmp_path / f"a.{kind}", icc_profile=profile, lossless=True)
    pixels = np.asarray(Image.open(tmp_path / f"a.{kind}").convert("RGB"))
    assert Image.open(tmp_path / f"a.{kind}").info["icc_profile"]
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / f"a.{kind}")), pixels)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow is built without AVIF")
def test_avif_is_read(tmp_path):
    noise(64, 48).save(tmp_path / "a.avif")
    pixels = np.asarray(Image.open(tmp_path / "a.avif").convert("RGB"))
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "a.avif")), pixels)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0heicmif1"  # the first bytes of a photo of an iPhone


def test_heic_needs_its_plugin(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(HEIC)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    refused_image(tmp_path / "a.heic", "a.heic: to read HEIC files", "pip install pillow-heif")
    refused_image(HEIC, "pip install pillow-heif")
    monkeypatch.setitem(sys.modules, "pillow_avif", None)
    refused_image(
        HEIC.replace(b"heic", b"avis"), "not an image" if features.check("avif") else "pip install pillow-avif"
    )


def test_heic_is_read_by_its_plugin(tmp_path, monkeypatch):
    """A plugin of the same name and function, which decodes every HEIC file to one colour."""

    class Plugin(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self):
            self._mode, self._size = "RGB", (4, 2)

        def load(self):
            self.im = Image.new("RGB", self.size, "blue").im
            return Image.Image.load(self)

    def register_heif_opener():
        Image.register_open("HEIF", Plugin, lambda start: start[4:12] == b"ftypheic")

    monkeypatch.setattr(Image, "ID", [*Image.ID])
    monkeypatch.setattr(Image, "OPEN", {**Image.OPEN})
    module = ModuleType("pillow_heif")
    module.register_heif_opener = register_heif_opener
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    (tmp_path / "a.heic").write_bytes(HEIC)
    assert np.asarray(open_image(tmp_path / "a.heic"))[1, 3].tolist() == [0, 0, 255]


def test_drawings_are_not_run(tmp_path, monkeypatch):
    noise(16, 16).save(tmp_path / "a.eps")
    monkeypatch.setattr("subprocess.check_call", None)
    refused_image(tmp_path / "a.eps", "a.eps: EPS is a drawing")


@pytest.mark.parametrize("kind", ["tga", "ppm", "jp2", "ico", "bmp", "pcx", "dds", "sgi", "qoi"])
def test_other_formats_of_pillow_are_read(tmp_path, kind):
    noise(16, 16).save(tmp_path / f"a.{kind}")
    pixels = np.asarray(Image.open(tmp_path / f"a.{kind}").convert("RGB"))
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / f"a.{kind}")), pixels)


class Pipe(io.BytesIO):
    """An open file that cannot seek, as standard input is."""

    def seekable(self):
        return False

    def seek(self, *_):
        raise OSError("Illegal seek")

    tell = seek


def test_bytes_and_open_files_are_images(tmp_path):
    image = noise(20, 10)
    image.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    with open(tmp_path / "a.png", "rb") as file:
        sources = [content, bytearray(content), memoryview(content), io.BytesIO(content), Pipe(content), file]
        for source in sources:
            np.testing.assert_array_equal(np.asarray(open_image(source)), np.asarray(image))
        file.seek(0)
        expected = preprocess(image, SETTINGS["bilinear"])
        for source in (content, io.BytesIO(content), file, [content, content]):
            np.testing.assert_array_equal(preprocess(source, SETTINGS["bilinear"])[:1], expected)
    refused_image(io.BytesIO(content[:60]), "image")


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
