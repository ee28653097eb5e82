"""Where values lie: NHWC, channels padded to whole vectors, so that no kernel has a ragged last vector."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..kernels.simd import CACHE_LINE
from ..machine import Machine

ALIGNMENT = 128  # bytes: two cache lines, since the hardware prefetches in pairs
HUGE_PAGE = 2 << 20


def ceil_div(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


def round_up(size: int, unit: int) -> int:
    """The smallest multiple of `unit` that is not less than `size`."""
    return ceil_div(size, unit) * unit


class TensorView(NamedTuple):
    """A value in memory, or a part of one: its shape in torch's order, its address, and strides in bytes.

    Tokens (N, T, D) are the pixels of one row; (N, D) is one pixel.
    """

    shape: tuple[int, ...]
    address: int
    image_stride: int
    row_stride: int
    pixel_stride: int
    channel_stride: int = 4

    @property
    def images(self) -> int:
        return self.shape[0]

    @property
    def channels(self) -> int:
        return self.shape[1] if len(self.shape) == 4 else self.shape[-1]

    @property
    def height_width(self) -> tuple[int, int]:
        """Pixels down and across."""
        if len(self.shape) == 4:
            return self.shape[2:]
        return 1, self.shape[1] if len(self.shape) == 3 else 1

    @property
    def pixels(self) -> int:
        """Pixels of an image."""
        height, width = self.height_width
        return height * width

    @property
    def bytes(self) -> int:
        return self.images * self.image_stride

    @property
    def contiguous(self) -> bool:
        """Whether pixels follow each other without gaps, within and across images."""
        row, image = self.height_width[1] * self.pixel_stride, self.pixels * self.pixel_stride
        return (self.channel_stride, self.row_stride, self.image_stride) == (4, row, image)

    def from_channel(self, channel: int) -> TensorView:
        """The same pixels from a later channel on."""
        return self._replace(address=self.address + 4 * channel)

    def rows(self, image: int, first: int = 0, count: int | None = None) -> TensorView:
        """Some rows of one image, by default all, as an image of their own."""
        count = self.height_width[0] if count is None else count
        address = self.address + image * self.image_stride + first * self.row_stride
        shape = (1, self.shape[1], count, self.shape[3])
        return self._replace(shape=shape, address=address, image_stride=count * self.row_stride)


def shape_view(shape: tuple[int, ...]) -> TensorView:
    """A view of a shape alone, which knows its channels and pixels but lies nowhere."""
    return TensorView(shape, 0, 0, 0, 0)


def nhwc(shape: tuple[int, ...], machine: Machine, address: int = 0) -> TensorView:
    """The view of a whole value at an address."""
    view = shape_view(shape)
    pixel = 4 * round_up(view.channels, machine.lanes)
    if pixel % machine.tuning.alias_stride == 0:  # pixels would push each other out of L1
        pixel += CACHE_LINE
    return TensorView(shape, address, view.pixels * pixel, view.height_width[1] * pixel, pixel)


def nchw(shape: tuple[int, ...], address: int) -> TensorView:
    """The view of an array as torch lays it out."""
    _, c, h, w = shape
    return TensorView(shape, address, 4 * c * h * w, 4 * w, 4, 4 * h * w)


def aligned_empty(size: int) -> np.ndarray:
    """float32 array of `size` elements, aligned to ALIGNMENT.

    A large one starts on a huge page and has room up to the end of one: where the system gives huge pages on request
    (NumPy requests them), one entry of the TLB then serves 512 times as much.
    """
    alignment = HUGE_PAGE if 4 * size >= HUGE_PAGE // 4 else ALIGNMENT
    buffer = np.empty((round_up(4 * size, alignment) + alignment) // 4, np.float32)
    start = -buffer.ctypes.data % alignment // 4
    return buffer[start : start + size]


def splits_channels(y: TensorView) -> bool:
    """Whether threads split the channels of an output (N) rather than its pixels (M): whichever there are more of.

    For a pointwise product that is the split by which the larger of weights and activations is read only once. As most
    steps follow one rule, a thread finds most of what it reads in its own cache.
    """
    return y.channels > y.images * y.pixels
