"""Images to network input: decode, orient, resize, crop, normalise, bit by bit as torchvision does.

torchvision's pipeline on PIL images is Resize, CenterCrop, ToTensor, Normalize, and timm's consists of the same four.
Pillow decodes and filters in both, so the same sizes and the same order of float32 operations give the same arrays.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import InputError, printable

INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

# Pixels. Only strips exceed it (1 x 3000 resized to 256 x 768000), and they would fill the memory.
LARGEST_RESIZED = 1 << 27


def open_image(source: str | os.PathLike | Image.Image | np.ndarray) -> Image.Image:
    """`source` as a PIL image of mode RGB.

    source: a path, a PIL image, or a uint8 array (H, W, 3) or (H, W).

    EXIF orientation is applied, and an animation gives its first frame. Alpha is dropped, not composited, as
    convert("RGB") in torchvision's and timm's loaders does. 16-bit grey is scaled to 8 bits, since Pillow's own
    conversion clips it to white. Raises InputError if the source is missing, damaged or not an image.
    """
    if isinstance(source, Image.Image):
        return _decode(source, printable(getattr(source, "filename", "") or "image"))
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(f"an image is a path, a PIL image or a uint8 array, not {type(source).__name__}")
    name = printable(os.fspath(source))
    try:
        with open(source, "rb") as file:
            return _decode(file, name)
    except FileNotFoundError:
        raise InputError(f"{name}: no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{name}: is a folder; name the images in it") from None
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise InputError(f"{name}: {getattr(error, 'strerror', None) or error}") from None


def preprocess(images, preprocessing) -> np.ndarray:
    """One image or several as float32 (N, 3, H, W), C-contiguous.

    images: a source of `open_image`, or an iterable of them. preprocessing: an `architectures.Preprocessing`.

    The shorter side is resized to `preprocessing.resize`, the centre (H, W) = `preprocessing.crop` is cropped (padded
    with black if the image is smaller), then x = (x / 255 - mean) / std. Raises InputError as `open_image` does, and if
    there are no images.
    """
    if isinstance(images, (str, os.PathLike, Image.Image)) or isinstance(images, np.ndarray) and images.ndim < 4:
        images = [images]
    if not isinstance(images, Iterable):
        raise InputError(f"images are paths, PIL images or uint8 arrays, not {type(images).__name__}")
    images = list(images)
    if not images:
        raise InputError("no images: give at least one")
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    batch = np.empty((len(images), 3, *preprocessing.crop), np.float32)
    for x, image in zip(batch, images, strict=True):
        name = printable(image) if isinstance(image, (str, os.PathLike)) else "an image"
        image = _resize(open_image(image), preprocessing.resize, INTERPOLATIONS[preprocessing.interpolation], name)
        x[:] = np.asarray(_crop(image, *preprocessing.crop)).transpose(2, 0, 1)
        x /= 255
        x -= mean
        x /= std
    return batch


def _decode(source, name: str) -> Image.Image:
    """The RGB image in an open file, or from a PIL image, whose pixels may still have to be read."""
    try:
        image = source if isinstance(source, Image.Image) else Image.open(source)
        image.load()
        file_format = image.format  # the transposed image has none
        return _to_rgb(_orient(image), file_format, name)
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
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{name}: damaged image ({reason})") from None


def _orient(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says, as it is without one."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # unreadable EXIF tells no orientation, but the pixels are intact
        return image


def _to_rgb(image: Image.Image, file_format: str | None, name: str) -> Image.Image:
    if 0 in image.size:
        raise InputError(f"{name}: an image without pixels")
    # 16-bit grey: "I;16..." or, from Pillow's PGM and its older PNG reader, 16-bit values in the 32-bit mode "I"
    if image.mode.startswith("I;16") or image.mode == "I" and file_format in ("PNG", "PPM"):
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise InputError(f"{name}: 32-bit pixels have no defined range; save the image with 8 or 16 bits")
    if image.mode == "P":  # through RGBA, because Pillow warns of transparency otherwise; the colours are the same
        image = image.convert("RGBA")
    return image.convert("RGB")


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or not (array.ndim == 2 or array.ndim == 3 and array.shape[2] == 3) or not array.size:
        raise InputError(
            "an image array is uint8 of shape (H, W, 3) or (H, W) with values 0 to 255, "
            f"not {array.dtype} of shape {array.shape}"
        )
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def _resize(image: Image.Image, shorter: int, interpolation, name: str) -> Image.Image:
    """torchvision.transforms.Resize(shorter): the longer side is truncated, not rounded."""
    width, height = image.size
    longer = int(shorter * max(width, height) / min(width, height))
    if shorter * longer > LARGEST_RESIZED:
        raise InputError(f"{name}: {width} x {height} pixels are too long and thin; crop it first")
    size = (shorter, longer) if width <= height else (longer, shorter)
    return image if size == image.size else image.resize(size, interpolation)


def _crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """torchvision.transforms.CenterCrop((height, width)); Pillow fills pixels outside the image with black."""
    left, top = _offset(image.width, width), _offset(image.height, height)
    return image.crop((left, top, left + width, top + height))


def _offset(size: int, crop: int) -> int:
    """Where a crop of a side begins: torchvision rounds half to even, and pads less before an image than behind it."""
    return round((size - crop) / 2) if size >= crop else -((crop - size) // 2)
