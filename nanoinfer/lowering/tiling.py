"""What a product is, and how its output is cut: channels into panels, pixels into regions and these into tiles.

kernels/convolution.py says what panels, regions and tiles are for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..graph import Node
from ..kernels import convolution
from ..kernels.simd import activation
from ..machine import target
from .layout import Place, padded

# A head, one row times so many vectors of channels or more, has panels of four vectors: it is as fast as its weights
# arrive, and four streams of sums hide more of the latency of a multiply-add than two.
HEAD = 48

# A stem has at most so many input channels, and so many elements of the input meet in a pixel of its output. (A patch
# is walked along its lines: see is_patch.) Its border columns are too little work for kernels of their own.
FEW, STEM_STEPS = 4, 256
NONE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Product:
    """One convolution, linear layer or max pooling.

    `tile` is the kernel of its tiles and `most_rows` their most rows by vectors. Without a weight (max pooling) each
    output channel reads its own input channel.
    """

    node: Node
    x: Place
    y: Place
    tile: str
    most_rows: dict[int, int]
    window: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: int = 0
    groups: int = 1
    depth: int = 1
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    residual: Place | None = None
    gate: Place | None = None
    partial: Place | None = None  # is added, as the residual is
    also: tuple[Place, ...] = ()  # (partial sum that the product is added to, where that goes), besides y
    sum_block: int = 0  # input channels in one chain of multiply-adds; 0: as many as suit y, a single pixel or more
    first: int = 0  # y is lines of the output from this one on

    @property
    def taps(self) -> int:
        return self.window[0] * self.window[1]

    @property
    def is_patch(self) -> bool:
        """Whether windows lie side by side and are wider than the input has channels: then a line of one channel is
        what a tile walks along."""
        few = self.weight is not None and self.groups == 1 and self.depth < self.stride
        return few and self.window == (self.stride, self.stride) and self.padding == 0

    @property
    def is_stem(self) -> bool:
        """Whether its tiles can be those of kernels/stem.py."""
        few = self.weight is not None and self.depth <= FEW and 1 < self.taps * self.depth <= STEM_STEPS
        return few and self.groups == 1 and self.residual is None and not self.is_patch


def kernel(product: Product, region: dict, rows: int, vectors: int, lanes: int) -> tuple:
    """The specification of a region's micro-kernel for `rows` pixels."""
    if product.weight is None:
        return product.tile, rows, vectors, lanes
    variant = activation.variant(product.node.attributes.get("activation"))
    if region["offsets"].size:
        return "stem", rows, vectors, lanes, region["x_step"], variant
    single = product.taps == 1 and product.padding == 0  # with padding, a border pixel may have none
    form = "partial" if product.partial else "pointwise" if single else "taps"
    return product.tile, rows, vectors, lanes, variant, form


def _offsets(x: Place, taps_y: int, taps_x: int, depth: int) -> np.ndarray:
    """Distances in bytes from the element of x that a pixel's first tap takes to all that meet in the pixel."""
    ky, kx, k = np.indices((taps_y, taps_x, depth)).reshape(3, -1)
    return ky * x.line + kx * x.pixel + k * x.channel


def panels(product: Product, machine: target.Target) -> list[tuple[int, int, int]]:
    """(vectors in a panel, lanes of a vector, number of panels).

    Two vectors a panel (four in a head), and three or one where a vector is left over. On a machine with half vectors,
    channels that end within the first half of a vector end with a panel of three or five half vectors, unless there is
    only one pixel to compute.
    """
    lanes, channels = machine.lanes, product.y.channels
    vectors = padded(channels, lanes) // lanes
    if product.groups > 1:  # panels must not cross groups
        group = vectors // product.groups
        wide = 2 if group % 2 == 0 else 3 if group % 3 == 0 else 1
        return [(wide, lanes, vectors // wide)]
    if product.y.pixels == 1 and vectors >= HEAD and product.weight is not None:
        return [(wide, lanes, count) for wide, count in ((4, vectors // 4), (vectors % 4, 1)) if wide and count]
    last = 0 if vectors % 2 == 0 else 1 if product.weight is None or vectors == 1 else 3
    cut = [(2, lanes, (vectors - last) // 2), (last, lanes, 1)]
    halves = padded(channels, lanes // 2) // (lanes // 2)
    if machine.halves and product.weight is not None and halves % 2 and product.y.pixels > 1:
        last = halves if halves < 4 else 3 if halves % 4 == 3 else 5
        cut = [(2, lanes, (halves - last) // 4), (last, lanes // 2, 1)]
    return [(wide, lanes, count) for wide, lanes, count in cut if wide and count]


def regions(product: Product, most: int, threads: int) -> tuple[int, list[tuple[dict, int]]]:
    """(images, [(region, rows of its tiles)]): rectangles of outputs that see the same taps, as lines of pixels.

    `most` is the rows that a tile of the panel's vectors can have, `threads` how many split the pixels.
    """
    x, y, stride, padding = product.x, product.y, product.stride, product.padding
    kernel_h, kernel_w = product.window
    if (kernel_h, kernel_w, stride, padding) == (1, 1, 1, 0):
        point = dict(first_tap=0, taps_y=1, taps_x=1, x_offset=product.first * x.line, y_offset=0, offsets=NONE)
        if x.contiguous and y.contiguous:  # one line of all pixels, of all images if they share their weights
            images = y.shape[0] if product.gate else 1
            line = dict(point, lines=1, length=y.shape[0] // images * y.pixels, x_line=0, y_line=0,
                        x_step=x.pixel, y_step=y.pixel)  # fmt: skip
            return images, [(line, _tile_rows(most, images, 1, line["length"], threads))]
        if y.pixels == 1:
            line = dict(point, lines=1, length=y.shape[0], x_line=0, y_line=0, x_step=x.image, y_step=y.image)
            return 1, [(line, _tile_rows(most, 1, 1, line["length"], threads))]
    found = []
    (height, width), first, (out_h, out_w) = x.size, product.first, y.size
    for top, bottom, ky, ky_end in convolution.border_groups(height, first, first + out_h, kernel_h, stride, padding):
        for left, right, kx, kx_end in convolution.border_groups(width, 0, out_w, kernel_w, stride, padding):
            down = (bottom - top, stride * x.line, y.line)
            along = (right - left, stride * x.pixel, y.pixel)
            stem = product.is_stem and kx_end - kx == kernel_w  # its tiles know how far pixels of a line are apart
            outer, inner = (down, along) if stem or along[0] >= down[0] else (along, down)
            (lines, x_line, y_line), (length, x_step, y_step) = outer, inner
            region = dict(
                lines=lines, length=length, x_line=x_line, y_line=y_line, x_step=x_step, y_step=y_step,
                x_offset=(top * stride - padding + ky) * x.line + (left * stride - padding + kx) * x.pixel,
                y_offset=(top - first) * y.line + left * y.pixel,
                first_tap=ky * kernel_w + kx, taps_y=ky_end - ky, taps_x=kx_end - kx,
                offsets=_offsets(x, ky_end - ky, kernel_w, product.depth) if stem else NONE,
            )  # fmt: skip
            if product.is_stem and not stem:
                found += _tiles_and_pixels(region, most)
            else:
                found.append((region, _tile_rows(most, y.shape[0], region["lines"], region["length"], threads)))
    return y.shape[0], found


def _tiles_and_pixels(region: dict, most: int) -> list[tuple[dict, int]]:
    """[(part of a region, rows of its tiles)]: full tiles and then single pixels, rather than a kernel to compile for
    each number of pixels that may be left."""
    whole, rest = region["length"] - region["length"] % most, region["length"] % most
    after = dict(region, length=rest, x_offset=region["x_offset"] + whole * region["x_step"],
                 y_offset=region["y_offset"] + whole * region["y_step"])  # fmt: skip
    return [part for part in ((dict(region, length=whole), most), (after, 1)) if part[0]["length"]]


def _tile_rows(most: int, images: int, lines: int, length: int, threads: int) -> int:
    """Rows of the tiles that a line of pixels is cut into: as even as they come, and a share for every thread.

    Tiles smaller by up to a fifth are better than one of another size at the end, which is one more kernel to compile.
    """
    tiles, share = -(-length // most), 1
    if images * lines == 1 and tiles < 8 * threads:
        share = threads
        tiles = min(-(-tiles // share) * share, length)
    rows = -(-length // tiles)
    even = (fewer for fewer in range(rows, -(-4 * rows // 5) - 1, -1) if length % (fewer * share) == 0)
    return next(even, rows)
