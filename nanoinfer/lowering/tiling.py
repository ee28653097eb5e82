"""How the output of a product is cut: channels into micro-panels, pixels into rectangles and these into tiles.

A *product* is whatever the convolution's loop nest computes: convolution, linear layers, max pooling. A Rectangle is
the geometry of a region; loop_nest.py makes of it a Region (what the loop nest reads) and TileLoops (what the
micro-kernel reads). kernels/convolution.py says what micro-panels, regions, runs and tiles are for.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np

from ..graph import Node
from ..machine import Machine, Tuning
from .layout import TensorView, ceil_div, round_up

NO_OFFSETS = np.zeros(0, np.int64)


class ConvProblem(NamedTuple):
    """One product (M pixels, N output channels, K input channels of a group).

    Without a weight (max pooling) each output channel reads its own input channel.
    """

    node: Node
    x: TensorView
    y: TensorView
    window: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: tuple[int, int] = (0, 0)  # rows above the image and columns to its left
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

        It is computed as a convolution with KW input channels and K x KH taps: the rows of one channel of a patch are
        longer than the list of channels, and the innermost loop goes along them.
        """
        few = self.weight is not None and self.groups == 1 and self.k < self.stride
        return few and self.window == (self.stride, self.stride) and self.padding == (0, 0)

    def fits_stem_kernel(self, tuning: Tuning) -> bool:
        """Whether its micro-kernel can be the one of kernels/stem.py, for an input of few channels."""
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


class EqualTaps(NamedTuple):
    """Outputs first..end along an axis that see the same taps, first_tap..end_tap."""

    first: int
    end: int
    first_tap: int
    end_tap: int


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
    """How output channels are cut into micro-panels.

    No vector is left over if there are several: one alone would use each pixel that it loads for half as many
    multiply-adds or fewer. On a double-pumped machine, channels that end within the first half of a vector end with
    a micro-panel of three or five half vectors, unless there is only one pixel to compute.
    """
    lanes, channels, has_weight = machine.lanes, problem.y.channels, problem.weight is not None
    nr, last_nr, head_nr = machine.tuning.panel_nr, machine.tuning.last_panel_nr, machine.tuning.head_nr
    if problem.taps * problem.k <= machine.tuning.wide_panel_k:
        nr, last_nr = last_nr, nr
    vectors, half_vectors = ceil_div(channels, lanes), ceil_div(channels, lanes // 2)
    if problem.groups > 1:
        return [_panels_of_groups(vectors, problem.groups, lanes)]
    if not has_weight:
        cut = [Panels(2, lanes, vectors // 2), Panels(1, lanes, vectors % 2)]
    elif problem.y.pixels == 1 and vectors >= machine.tuning.head_vectors:
        cut = [Panels(head_nr, lanes, vectors // head_nr), Panels(vectors % head_nr, lanes, 1)]
    elif machine.double_pumped and problem.y.pixels > 1 and half_vectors % 2:
        last = half_vectors if half_vectors < 4 else 3 if half_vectors % 4 == 3 else 5
        cut = [Panels(nr, lanes, (half_vectors - last) // (2 * nr)), Panels(last, lanes // 2, 1)]
    elif vectors == 1:
        cut = [Panels(1, lanes, 1)]
    else:
        last = next(count for count in range(nr) if (vectors - count * last_nr) % nr == 0)
        cut = [Panels(nr, lanes, (vectors - last * last_nr) // nr), Panels(last_nr, lanes, last)]
    return [part for part in cut if part.nr and part.count]


def _panels_of_groups(vectors: int, groups: int, lanes: int) -> Panels:
    """Micro-panels that cross no border of groups."""
    group = vectors // groups
    nr = 2 if group % 2 == 0 else 3 if group % 3 == 0 else 1
    return Panels(nr, lanes, vectors // nr)


def rectangles(problem: ConvProblem, tuning: Tuning, nr: int, threads: int) -> tuple[int, list[Rectangle]]:
    """(how many images the loop nest sees, the rectangles of each): every output is in one of them.

    `threads` is how many split the pixels.
    """
    mr = problem.largest_mr(tuning, nr)
    if (problem.taps, problem.stride, problem.padding) == (1, 1, (0, 0)):
        if one := _one_run(problem):
            images, rectangle = one
            return images, [rectangle._replace(mr=_even_mr(tuning, (mr, nr), images, rectangle.length, threads))]
    images, found = problem.y.images, []
    for rows in _equal_taps(problem, 0):
        for columns in _equal_taps(problem, 1):
            rectangle = _rectangle(problem, tuning, rows, columns)
            if problem.fits_stem_kernel(tuning) and not rectangle.stem_offsets.size:
                found += _tiles_and_pixels(rectangle, mr)
            else:
                tile = _even_mr(tuning, (mr, nr), images * rectangle.runs, rectangle.length, threads)
                found.append(rectangle._replace(mr=tile))
    return images, found


def _one_run(problem: ConvProblem) -> tuple[int, Rectangle] | None:
    """(images, rectangle) of a product of single pixels whose pixels are one run, of an image or of all as one."""
    x, y = problem.x, problem.y
    if x.contiguous and y.contiguous:
        images = y.images if problem.gate else 1  # gates give each image weights of its own
        length, x_pixel_stride, y_pixel_stride = y.images // images * y.pixels, x.pixel_stride, y.pixel_stride
    elif y.pixels == 1:
        images, length, x_pixel_stride, y_pixel_stride = 1, y.images, x.image_stride, y.image_stride
    else:
        return None
    return images, Rectangle(
        runs=1, length=length, x_run_stride=0, y_run_stride=0, x_pixel_stride=x_pixel_stride,
        y_pixel_stride=y_pixel_stride, x_offset=problem.first_row * x.row_stride, y_offset=0, first_tap=0, taps_y=1,
        taps_x=1, stem_offsets=NO_OFFSETS,
    )  # fmt: skip


def _equal_taps(problem: ConvProblem, axis: int) -> tuple[EqualTaps, ...]:
    """Rows (axis 0) or columns (axis 1) of the output, cut where the set of valid taps changes."""
    first = problem.first_row if axis == 0 else 0
    end = first + problem.y.height_width[axis]
    size, window = problem.x.height_width[axis], problem.window[axis]
    return _cut_axis(size, first, end, window=window, stride=problem.stride, padding=problem.padding[axis])


@lru_cache
def _cut_axis(size: int, first: int, end: int, *, window: int, stride: int, padding: int) -> tuple[EqualTaps, ...]:
    """Outputs first..end along an axis of an input of `size` pixels, cut where the set of valid taps changes."""
    parts = []
    for position in range(first, end):
        start = position * stride - padding
        taps = max(0, -start), min(window, size - start)
        if parts and parts[-1][2:] == taps:
            parts[-1] = parts[-1]._replace(end=position + 1)
        else:
            parts.append(EqualTaps(position, position + 1, *taps))
    return tuple(parts)


def _rectangle(problem: ConvProblem, tuning: Tuning, rows: EqualTaps, columns: EqualTaps) -> Rectangle:
    """The outputs in some rows and columns; runs of pixels go along the longer side."""
    x, y, stride, (top, left) = problem.x, problem.y, problem.stride, problem.padding
    taps_y, taps_x = rows.end_tap - rows.first_tap, columns.end_tap - columns.first_tap
    down = rows.end - rows.first, stride * x.row_stride, y.row_stride
    along = columns.end - columns.first, stride * x.pixel_stride, y.pixel_stride
    # The stem's micro-kernel knows how far the pixels of an image row are apart, so it walks along rows.
    stem = problem.fits_stem_kernel(tuning) and taps_x == problem.window[1]
    outer, inner = (down, along) if stem or along[0] >= down[0] else (along, down)
    (runs, x_run_stride, y_run_stride), (length, x_pixel_stride, y_pixel_stride) = outer, inner
    x_row = rows.first * stride - top + rows.first_tap
    x_column = columns.first * stride - left + columns.first_tap
    return Rectangle(
        runs=runs, length=length, x_run_stride=x_run_stride, y_run_stride=y_run_stride, x_pixel_stride=x_pixel_stride,
        y_pixel_stride=y_pixel_stride, x_offset=x_row * x.row_stride + x_column * x.pixel_stride,
        y_offset=(rows.first - problem.first_row) * y.row_stride + columns.first * y.pixel_stride,
        first_tap=rows.first_tap * problem.window[1] + columns.first_tap, taps_y=taps_y, taps_x=taps_x,
        stem_offsets=_stem_offsets(problem, taps_y) if stem else NO_OFFSETS,
    )  # fmt: skip


def _stem_offsets(problem: ConvProblem, taps_y: int) -> np.ndarray:
    """Offsets in bytes from the first element that an output pixel reads, of all, in the order of packed weights."""
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


def _even_mr(tuning: Tuning, panel: tuple[int, int], runs: int, length: int, threads: int) -> int:
    """Pixels of the tiles that a run is cut into: as even as they come, and of a single run as many for every thread.

    `panel` is (most pixels of a tile, vectors of a micro-panel). Somewhat smaller tiles are better than one of another
    size at the end, which is one more kernel to compile, and than a last tile of few sums, which is slow for its size.
    """
    mr, nr = panel
    tiles, equal_parts = ceil_div(length, mr), 1
    if runs == 1 and tiles < tuning.tiles_a_thread * threads:
        equal_parts = threads
        tiles = min(round_up(tiles, equal_parts), length)
    pixels = ceil_div(length, tiles)
    smaller = range(pixels, math.ceil(tuning.even_tiles * pixels) - 1, -1)
    even = (fewer for fewer in smaller if length % (fewer * equal_parts) == 0)
    busy = (fewer for fewer in smaller if length % fewer * nr >= tuning.fewest_sums)
    return next(chain(even, busy), pixels)
