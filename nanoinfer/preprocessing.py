"""Preprocessing: how an image becomes a network's input, as the publisher of its weights says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real

from .errors import InputError, did_you_mean, printable

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")  # Pillow's filters
CROP_MODES = ("center", "border", "squash")  # timm's
LARGEST_SIZE = 100_000  # pixels of a side


@dataclass(frozen=True)
class Preprocessing:
    """Image -> input: resize, crop the centre, scale to 0..1, then (x - mean) / std.

    resize: pixels of the shorter side; or (height, width), a rectangle that crop_mode "center" covers, "border" fits
        into and "squash" equals. A number n means (n, n) to the latter two.
    crop: (height, width) in pixels, or a number for both. What lies outside of the image is black; for "border" it has
        the colour `mean`.
    interpolation: one of INTERPOLATIONS. crop_mode: one of CROP_MODES.
    mean, std: one number for each channel, of values in 0..1: three for RGB, one for grey.
    source: a phrase that says who states this; two records are equal whatever it is.

    Raises InputError for a field that has another form.
    """

    resize: int | tuple[int, int]
    crop: int | tuple[int, int] = (224, 224)
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop_mode: str = "center"
    source: str = field(default="", compare=False)

    def __post_init__(self):
        put = object.__setattr__
        resize = _size if isinstance(self.resize, Integral) else _pair
        put(self, "resize", resize("resize", self.resize))
        put(self, "crop", _pair("crop", self.crop))
        for name, known in (("interpolation", INTERPOLATIONS), ("crop_mode", CROP_MODES)):
            value = getattr(self, name)
            if value not in known:
                raise InputError(f"{name}={printable(value)!r}: give one of {', '.join(known)}")
        for name in ("mean", "std"):
            put(self, name, _numbers(name, getattr(self, name)))
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise InputError(
                f"mean has {len(self.mean)} numbers, std {len(self.std)}; give three of each for RGB, or one for grey"
            )
        if min(self.std) <= 0:
            raise InputError(f"std={self.std}: give numbers above 0, since pixels are divided by them")

    @property
    def channels(self) -> int:
        """Of the input: 3 for RGB, 1 for grey."""
        return len(self.mean)

    @property
    def rectangle(self) -> tuple[int, int]:
        """`resize` as (height, width)."""
        return self.resize if isinstance(self.resize, tuple) else (self.resize, self.resize)

    def at(self, size: int | tuple[int, int]) -> Preprocessing:
        """The same for inputs of another size: `resize` keeps its ratio to `crop`, rounded down as in timm."""
        height, width = _pair("image_size", size)
        if (height, width) == self.crop:
            return self
        sides = zip((height, width), self.rectangle, self.crop, strict=True)
        scaled = tuple(new * resize // crop for new, resize, crop in sides)
        square = isinstance(self.resize, int) and scaled[0] == scaled[1]
        return replace(self, resize=scaled[0] if square else scaled, crop=(height, width))

    def for_channels(self, channels: int) -> Preprocessing:
        """The same for `channels` input channels: the averages of mean and std where their number differs, as in timm.

        Networks of other than one or three channels take no images; theirs is that of grey.
        """
        if channels == self.channels:
            return self
        count = 3 if channels == 3 else 1
        mean, std = ((sum(values) / len(values),) * count for values in (self.mean, self.std))
        return replace(self, mean=mean, std=std)

    def with_options(self, options: Mapping, source: str) -> Preprocessing:
        """The same with some fields changed, and `source` put before its own. InputError for an unknown field.

        A `crop` alone keeps the ratio of `resize` to it; one number as `mean` or `std` is that of every channel.
        """
        options = {name: value for name, value in options.items() if value is not None}
        if not options:
            return self
        known = [item.name for item in fields(self) if item.name != "source"]
        for name in options:
            if name not in known:
                hint = did_you_mean(str(name), known, otherwise=f"its fields are {', '.join(known)}")
                raise InputError(f"preprocessing has no field {printable(name)!r}; {hint}")
        for name in ("mean", "std"):
            if name in options:
                values = _numbers(name, options[name])
                options[name] = values * self.channels if len(values) == 1 else values
        if "crop" in options:
            options["crop"] = _pair("crop", options["crop"])
        base = self.at(options["crop"]) if "crop" in options and "resize" not in options else self
        rest = f"; else {self.source}" if self.source and set(options) != set(known) else ""
        return replace(base, **options, source=f"{', '.join(options)} {source}{rest}")

    def __str__(self) -> str:
        height, width = self.crop
        mode = "" if self.crop_mode == "center" else f" ({self.crop_mode})"
        resize = f"{self.resize}" if isinstance(self.resize, int) else " x ".join(map(str, self.resize))
        mean, std = (" ".join(f"{value:.5g}" for value in values) for values in (self.mean, self.std))
        return f"resize {resize} {self.interpolation}, crop {height} x {width}{mode}, mean {mean}, std {std}"


def _size(name: str, value) -> int:
    """`value` as a number of pixels."""
    if not isinstance(value, Integral) or isinstance(value, bool) or not 0 < value <= LARGEST_SIZE:
        raise InputError(f"{name}={printable(value)}: give a whole number of pixels above 0 and up to {LARGEST_SIZE:,}")
    return int(value)


def _pair(name: str, value) -> tuple[int, int]:
    """`value`, a number or (height, width), as (height, width)."""
    if isinstance(value, Integral):
        return (_size(name, value),) * 2
    if not isinstance(value, (tuple, list)) or len(value) not in (1, 2):
        raise InputError(f"{name}={printable(value)}: give a number of pixels, or (height, width)")
    height, width = (*value, *value)[:2]
    return _size(name, height), _size(name, width)


def _numbers(name: str, values) -> tuple[float, ...]:
    """`values`, a number or some, as a tuple of floats."""
    values = (values,) if isinstance(values, Real) else values
    if not isinstance(values, (tuple, list)) or not values:
        raise InputError(f"{name}={printable(values)}: give one number for each channel")
    for value in values:
        if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
            raise InputError(f"{name}={printable(values)}: give one number for each channel")
    return tuple(map(float, values))
