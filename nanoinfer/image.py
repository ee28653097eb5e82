"""Images to network input: decode, orient, resize, crop, normalise, bit by bit as torchvision and timm do.

Their pipelines on PIL images are a resize, a crop of the centre, ToTensor and Normalize. Pillow decodes and filters in
both, so the same sizes and the same order of float32 operations give the same arrays.
"""

from __future__ import annotations

import importlib
import io
import os
import warnings
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import InputError, printable
from .preprocessing import Preprocessing

# Pixels. Only strips exceed it (1 x 3000 resized to 256 x 768000), and they would fill the memory.
LARGEST_RESIZED = 1 << 27
VECTOR_FORMATS = ("EPS", "WMF", "EMF")  # Pillow runs other programs for these
# Formats that a plugin decodes, by the brand that stands behind "ftyp" in their first bytes.
PLUGINS = {
    "HEIC": (("heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1"), "pillow_heif", "register_heif_opener"),
    "AVIF": (("avif", "avis"), "pillow_avif", None),  # importing it is enough, and Pillow from 11.3 needs none
}


def open_image(source, mode: str = "RGB") -> Image.Image:
    """`source` as a PIL image of mode RGB, or of `mode` "L", grey.

    source: a path, the bytes of a file, an open binary file, a PIL image, or a uint8 array (H, W, 3) or (H, W).

    EXIF orientation is applied, and an animation gives its first frame, with a warning. Alpha is dropped, not
    composited, and colour profiles are left alone, as convert("RGB") in torchvision's and timm's loaders does. 16-bit
    grey is scaled to 8 bits, since Pillow's own conversion clips it to white. Raises InputError if the source is
    missing, damaged or not an image.
    """
    if isinstance(source, Image.Image):
        return _decode(source, printable(getattr(source, "filename", "") or "image"), mode)
    if isinstance(source, np.ndarray):
        return _from_array(source).convert(mode)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), "image", mode)
    if not isinstance(source, (str, os.PathLike)):
        return _decode(_seekable(source), printable(getattr(source, "name", "image")), mode)
    name = printable(os.fspath(source))
    try:
        with open(source, "rb") as file:
            return _decode(file, name, mode)
    except FileNotFoundError:
        raise InputError(f"{name}: no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{name}: is a folder; name the images in it") from None
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise InputError(f"{name}: {getattr(error, 'strerror', None) or error}") from None


def preprocess(images, preprocessing: Preprocessing) -> np.ndarray:
    """One image or several as float32 (N, C, H, W), C-contiguous; C is 3, or 1 where `preprocessing` is of grey.

    images: a source of `open_image`, or an iterable of them.

    They are resized and cropped as `Preprocessing` says, then x = (x / 255 - mean) / std. Raises InputError as
    `open_image` does, and if there are no images.
    """
    single = isinstance(images, np.ndarray) and images.ndim < 4 or hasattr(images, "read")
    if single or isinstance(images, (str, os.PathLike, Image.Image, bytes, bytearray, memoryview)):
        images = [images]
    if not isinstance(images, Iterable):
        raise InputError(f"images are paths, bytes, PIL images or uint8 arrays, not {type(images).__name__}")
    images = list(images)
    if not images:
        raise InputError("no images: give at least one")
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    mode = "RGB" if preprocessing.channels == 3 else "L"
    batch = np.empty((len(images), preprocessing.channels, *preprocessing.crop), np.float32)
    for x, image in zip(batch, images, strict=True):
        name = printable(image if isinstance(image, (str, os.PathLike)) else getattr(image, "name", "an image"))
        image = _crop(_resize(open_image(image, mode), preprocessing, name), preprocessing)
        x[:] = np.asarray(image).reshape(*preprocessing.crop, -1).transpose(2, 0, 1)
        x /= 255
        x -= mean
        x /= std
    return batch


def _seekable(source):
    """An open binary file that Pillow can seek in: `source` itself, or what is left in it."""
    if not hasattr(source, "read"):
        kinds = "a path, bytes, an open file, a PIL image or a uint8 array"
        raise InputError(f"an image is {kinds}, not {type(source).__name__}")
    try:
        if hasattr(source, "seekable") and source.seekable():
            return source
        return io.BytesIO(source.read())
    except (OSError, ValueError, TypeError) as error:  # closed, or a file of text
        raise InputError(f"an image cannot be read from this {type(source).__name__} ({error})") from None


def _decode(source, name: str, mode: str) -> Image.Image:
    """The image in an open file, or a PIL image, whose pixels may still have to be read, in `mode`."""
    try:
        image = source if isinstance(source, Image.Image) else _opened(source, name)
        image.load()
        file_format = image.format  # the transposed image has none
        return _converted(_orient(image), mode, file_format, name)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(
            f"{name}: not an image that Pillow can read; give a JPEG, PNG, WebP, TIFF, BMP or GIF file"
        ) from None
    except Image.DecompressionBombError:
        limit = 2 * Image.MAX_IMAGE_PIXELS // 1_000_000
        raise InputError(f"{name}: more than {limit} million pixels; scale it down first") from None
    except Exception as error:  # a decoder may raise anything on damaged bytes
        reason = printable(((str(error) or type(error).__name__).splitlines() or [""])[0])
        raise InputError(f"{name}: damaged image ({reason})") from None


def _opened(file, name: str) -> Image.Image:
    """The image in an open file, its pixels unread; a plugin is asked where Pillow alone does not know the format."""
    start = file.tell()
    try:
        image = Image.open(file)
    except UnidentifiedImageError:
        file.seek(start)
        image = _opened_by_plugin(file, name)
    if image.format in VECTOR_FORMATS:
        raise InputError(f"{name}: {image.format} is a drawing, not pixels; save it as PNG or JPEG")
    # A phone's MPO is one picture with data beside it, such as depths.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        warnings.warn(f"{name}: holds several pictures; the first one is taken", stacklevel=2)
    return image


def _opened_by_plugin(file, name: str) -> Image.Image:
    """The image by the plugin for its kind; UnidentifiedImageError where there is none."""
    start = file.read(12)
    file.seek(-len(start), os.SEEK_CUR)
    for kind, (brands, module, register) in PLUGINS.items():
        known = kind in Image.OPEN  # and the file is damaged
        if start[4:8] == b"ftyp" and start[8:12].decode("latin-1") in brands and not known:
            try:
                plugin = importlib.import_module(module)
            except ImportError:
                package = module.replace("_", "-")
                raise InputError(f"{name}: to read {kind} files, run: pip install {package}") from None
            if register:
                getattr(plugin, register)()
            return Image.open(file)
    raise UnidentifiedImageError


def _orient(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says, as it is without one."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # unreadable EXIF tells no orientation, but the pixels are intact
        return image


def _converted(image: Image.Image, mode: str, file_format: str | None, name: str) -> Image.Image:
    """The image in `mode`, "RGB" or "L"."""
    if 0 in image.size:
        raise InputError(f"{name}: an image without pixels")
    # 16-bit grey: "I;16..." or, from Pillow's PGM and its older PNG reader, 16-bit values in the 32-bit mode "I"
    if image.mode.startswith("I;16") or image.mode == "I" and file_format in ("PNG", "PPM"):
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert(mode)
    if image.mode in ("I", "F"):
        raise InputError(f"{name}: 32-bit pixels have no defined range; save the image with 8 or 16 bits")
    if image.mode == "P" and mode == "RGB":  # through RGBA, because Pillow warns of transparency; colours are the same
        image = image.convert("RGBA")
    return image.convert(mode)


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or not (array.ndim == 2 or array.ndim == 3 and array.shape[2] == 3) or not array.size:
        raise InputError(
            "an image array is uint8 of shape (H, W, 3) or (H, W) with values 0 to 255, "
            f"not {array.dtype} of shape {array.shape}"
        )
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def _resize(image: Image.Image, preprocessing: Preprocessing, name: str) -> Image.Image:
    """The image scaled to the size that `preprocessing` gives it."""
    width, height = image.size
    rows, columns = preprocessing.rectangle
    if preprocessing.crop_mode == "squash":
        size = columns, rows
    elif preprocessing.crop_mode == "center" and isinstance(preprocessing.resize, int):
        # torchvision.transforms.Resize(resize): the longer side is truncated, not rounded.
        longer = int(rows * max(width, height) / min(width, height))
        size = (rows, longer) if width <= height else (longer, rows)
    else:  # timm's ResizeKeepRatio, which rounds; "border" fits the image into the rectangle
        ratios = height / rows, width / columns
        ratio = max(ratios) if preprocessing.crop_mode == "border" else min(ratios)
        size = round(width / ratio), round(height / ratio)
    if size[0] * size[1] > LARGEST_RESIZED or 0 in size:
        raise InputError(f"{name}: {width} x {height} pixels are too long and thin; crop it first")
    filters = Image.Resampling[preprocessing.interpolation.upper()]
    return image if size == image.size else image.resize(size, filters)


def _crop(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """torchvision.transforms.CenterCrop; what lies outside of the image is black, or of the mean's colour."""
    height, width = preprocessing.crop
    left, top = _offset(image.width, width), _offset(image.height, height)
    if preprocessing.crop_mode != "border":
        return image.crop((left, top, left + width, top + height))
    fill = tuple(round(255 * value) for value in preprocessing.mean)
    canvas = Image.new(image.mode, (width, height), fill if len(fill) > 1 else fill[0])
    canvas.paste(image, (-left, -top))
    return canvas


def _offset(size: int, crop: int) -> int:
    """Where a crop of a side begins: torchvision rounds half to even, and pads less before an image than behind it."""
    return round((size - crop) / 2) if size >= crop else -((crop - size) // 2)
