"""How the output of a product is cut: channels into micro-panels, pixels into rectangles and these into tiles.

kernels/convolution.py says what micro-panels, regions and tiles are for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..graph import Node
from ..kernels.convolution import BorderRun, border_runs
from ..machine import Machine, Tuning
from .layout import TensorView, padded

NO_OFFSETS = np.zeros(0, np.int64)


@dataclass(frozen=True)
class ConvProblem:
    """One convolution, linear layer or max pooling (M pixels, N output channels, K input channels of a group).

    Without a weight (max pooling) each output channel reads its own input channel.
    """

    node: Node
    x: TensorView
    y: TensorView
    window: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: int = 0
    groups: int = 1
    k: int = 1
    weight: np.ndarray | None = None  # (O, K, KH, KW)
    bias: np.ndarray | None = None
    residual: TensorView | None = None
    gate: TensorView | None = None  # scales the weights of each image
    partial: TensorView | None = None  # a partial sum, which is added as the residual is
    aux: tuple[TensorView, TensorView] | None = None  # (another partial sum to add, where that sum goes)
    k_block: int = 0  # input channels in one chain of multiply-adds; 0: as Numerics says for y
    first_row: int = 0  # y begins with this row of the output

    @property
    def taps(self) -> int:
        return self.window[0] * self.window[1]

    @property
    def is_patch(self) -> bool:
        """Whether windows lie side by side and are wider than the input has channels.

        A micro-kernel then walks along the rows of one channel of a patch, which are longer than the list of channels.
        """
        few = self.weight is not None and self.groups == 1 and self.k < self.stride
        return few and self.window == (self.stride, self.stride) and self.padding == 0

    def is_stem(self, tuning: Tuning) -> bool:
        """Whether its micro-kernel can be the one of kernels/stem.py."""
        few = self.weight is not None and self.k <= tuning.stem_channels and 1 < self.taps * self.k <= tuning.stem_steps
        return few and self.groups == 1 and self.residual is None and not self.is_patch

    def largest_mr(self, tuning: Tuning, nr: int) -> int:
        """Most pixels of a tile of `nr` vectors."""
        return (tuning.pool_mr if self.weight is None else tuning.matmul_mr)[nr]


class Panels(NamedTuple):
    """Micro-panels of one width, side by side."""

    nr: int  # vectors of a micro-panel
    lanes: int
    count: int

    @property
    def width(self) -> int:
        """Output channels of a micro-panel."""
        return self.nr * self.lanes


class Rectangle(NamedTuple):
    """Outputs that see the same taps, in runs of pixels. Offsets and strides are in bytes."""

    runs: int
    length: int  # pixels of a run
    x_run_stride: int
    y_run_stride: int
    x_pixel_stride: int
    y_pixel_stride: int
    x_offset: int  # from the image's first pixel to the first that the rectangle reads
    y_offset: int
    first_tap: int
    taps_y: int
    taps_x: int
    stem_offsets: np.ndarray  # int64; empty unless its micro-kernel is the stem's
    mr: int = 0  # pixels of its tiles


def panels(problem: ConvProblem, machine: Machine) -> list[Panels]:
    """How output channels are cut.

    Micro-panels have two vectors (four in a head), and the last has three or one where a vector is left over. On a
    double-pumped machine, channels that end within the first half of a vector end with a micro-panel of three or five
    half vectors, unless there is only one pixel to compute.
    """
    lanes, channels, has_weight = machine.lanes, problem.y.channels, problem.weight is not None
    vectors = padded(channels, lanes) // lanes
    if problem.groups > 1:
        return [_of_groups(vectors, problem.groups, lanes)]
    if problem.y.pixels == 1 and vectors >= machine.tuning.head_vectors and has_weight:
        cut = [Panels(4, lanes, vectors // 4), Panels(vectors % 4, lanes, 1)]
    elif machine.double_pumped and has_weight and problem.y.pixels > 1 and _half_vectors(channels, lanes) % 2:
        halves = _half_vectors(channels, lanes)
        last = halves if halves < 4 else 3 if halves % 4 == 3 else 5
        cut = [Panels(2, lanes, (halves - last) // 4), Panels(last, lanes // 2, 1)]
    else:
        last = 0 if vectors % 2 == 0 else 1 if not has_weight or vectors == 1 else 3
        cut = [Panels(2, lanes, (vectors - last) // 2), Panels(last, lanes, 1)]
    return [part for part in cut if part.nr and part.count]


def _of_groups(vectors: int, groups: int, lanes: int) -> Panels:
    """Micro-panels that cross no border of groups."""
    group = vectors // groups
    nr = 2 if group % 2 == 0 else 3 if group % 3 == 0 else 1
    return Panels(nr, lanes, vectors // nr)


def _half_vectors(channels: int, lanes: int) -> int:
    return padded(channels, lanes // 2) // (lanes // 2)


def rectangles(problem: ConvProblem, tuning: Tuning, nr: int, threads: int) -> tuple[int, list[Rectangle]]:
    """(images, the rectangles of each): all outputs, each in one rectangle.

    `threads` is how many split the pixels. A product of one tap over contiguous pixels is one run over all images.
    """
    mr = problem.largest_mr(tuning, nr)
    x, y = problem.x, problem.y
    if (problem.taps, problem.stride, problem.padding) == (1, 1, 0):
        one_run = None
        if x.contiguous and y.contiguous:
            images = y.images if problem.gate else 1  # gates give each image weights of its own
            one_run = images, y.images // images * y.pixels, x.pixel_stride, y.pixel_stride
        elif y.pixels == 1:
            one_run = 1, y.images, x.image_stride, y.image_stride
        if one_run:
            images, length, x_stride, y_stride = one_run
            tile = _even_mr(tuning, mr, images, length, threads)
            x_offset = problem.first_row * x.row_stride
            return images, [Rectangle(1, length, 0, 0, x_stride, y_stride, x_offset, 0, 0, 1, 1, NO_OFFSETS, tile)]
    found = []
    for rows in _border_runs(problem, 0):
        for columns in _border_runs(problem, 1):
            rectangle = _rectangle(problem, tuning, rows, columns)
            if problem.is_stem(tuning) and not rectangle.stem_offsets.size:
                found += _tiles_and_pixels(rectangle, mr)
            else:
                tile = _even_mr(tuning, mr, y.images * rectangle.runs, rectangle.length, threads)
                found.append(rectangle._replace(mr=tile))
    return y.images, found


def _border_runs(problem: ConvProblem, axis: int) -> list[BorderRun]:
    """Rows (axis 0) or columns (axis 1) of the output, cut where the set of valid taps changes."""
    size, count = problem.x.size[axis], problem.y.size[axis]
    first = problem.first_row if axis == 0 else 0
    return border_runs(
        size, first, first + count, window=problem.window[axis], stride=problem.stride, padding=problem.padding
    )


def _rectangle(problem: ConvProblem, tuning: Tuning, rows: BorderRun, columns: BorderRun) -> Rectangle:
    """The outputs in some rows and columns; runs of pixels go along the longer side."""
    x, y, stride, padding = problem.x, problem.y, problem.stride, problem.padding
    taps_y, taps_x = rows.end_tap - rows.first_tap, columns.end_tap - columns.first_tap
    down = rows.end - rows.first, stride * x.row_stride, y.row_stride
    along = columns.end - columns.first, stride * x.pixel_stride, y.pixel_stride
    # The stem's micro-kernel knows how far the pixels of an image row are apart, so it walks along rows.
    stem = problem.is_stem(tuning) and taps_x == problem.window[1]
    outer, inner = (down, along) if stem or along[0] >= down[0] else (along, down)
    (runs, x_run_stride, y_run_stride), (length, x_pixel_stride, y_pixel_stride) = outer, inner
    x_row = rows.first * stride - padding + rows.first_tap
    x_column = columns.first * stride - padding + columns.first_tap
    return Rectangle(
        runs, length, x_run_stride, y_run_stride, x_pixel_stride, y_pixel_stride,
        x_offset=x_row * x.row_stride + x_column * x.pixel_stride,
        y_offset=(rows.first - problem.first_row) * y.row_stride + columns.first * y.pixel_stride,
        first_tap=rows.first_tap * problem.window[1] + columns.first_tap, taps_y=taps_y, taps_x=taps_x,
        stem_offsets=_stem_offsets(problem, taps_y) if stem else NO_OFFSETS,
    )  # fmt: skip


def _stem_offsets(problem: ConvProblem, taps_y: int) -> np.ndarray:
    """Bytes from the element of x that an output pixel's first tap takes to all that meet in it, in order."""
    x = problem.x
    ky, kx, k = np.indices((taps_y, problem.window[1], problem.k)).reshape(3, -1)
    return ky * x.row_stride + kx * x.pixel_stride + k * x.channel_stride


def _tiles_and_pixels(rectangle: Rectangle, mr: int) -> list[Rectangle]:
    """Full tiles and then single pixels, rather than a kernel to compile for each number of pixels left over.

    The border columns of a stem are too little work for kernels of their own.
    """
    whole = rectangle.length - rectangle.length % mr
    rest = rectangle._replace(
        length=rectangle.length - whole, mr=1, x_offset=rectangle.x_offset + whole * rectangle.x_pixel_stride,
        y_offset=rectangle.y_offset + whole * rectangle.y_pixel_stride,
    )  # fmt: skip
    return [part for part in (rectangle._replace(length=whole, mr=mr), rest) if part.length]


def _even_mr(tuning: Tuning, mr: int, runs: int, length: int, threads: int) -> int:
    """Pixels of the tiles that a run is cut into: as even as they come, and of a single run a share for every thread.

    Somewhat smaller tiles are better than one of another size at the end, which is one more kernel to compile.
    """
    tiles, share = -(-length // mr), 1
    if runs == 1 and tiles < tuning.tiles_a_thread * threads:
        share = threads
        tiles = min(-(-tiles // share) * share, length)
    pixels = -(-length // tiles)
    smallest = math.ceil(tuning.even_tiles * pixels)
    even = (fewer for fewer in range(pixels, smallest - 1, -1) if length % (fewer * share) == 0)
    return next(even, pixels)
