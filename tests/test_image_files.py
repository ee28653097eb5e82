"""Images as files: formats, orientation, frames, depth and colour, and damaged ones."""

import io
import struct
import sys
import warnings
import zlib
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, features

from nanoinfer.architectures import Preprocessing
from nanoinfer.image import open_image, preprocess
from tests.helpers import noise, refused_image

SETTING = Preprocessing(resize=256)


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


def save(image, path):
    """Write a file, or skip the test: older releases of Pillow read formats that they cannot write."""
    try:
        image.save(path)
    except (KeyError, OSError, ValueError) as error:
        pytest.skip(f"this Pillow cannot write {path.suffix}: {error}")


@pytest.mark.parametrize("kind", ["png", "tif", "pgm"])
def test_sixteen_bit_files_are_scaled_to_eight(tmp_path, kind):
    values = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    save(Image.fromarray(values), tmp_path / f"a.{kind}")
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
    save(noise(16, 16), tmp_path / f"a.{kind}")
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
        expected = preprocess(image, SETTING)
        for source in (content, io.BytesIO(content), file, [content, content]):
            np.testing.assert_array_equal(preprocess(source, SETTING)[:1], expected)
    refused_image(io.BytesIO(content[:60]), "image")


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
