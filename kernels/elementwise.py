"""Element by element: scale, shift, sum and activation where nothing is fused; the sums of Strassen's scheme.

    y = activation(x * factor + shift + other)

`factor` is one value a channel (batch norm) or one an image and channel (squeeze-and-excite), `shift` one a channel,
`other` a second activation of the same shape (residual). Each may be absent, which address 0 says.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .simd.activation import epilogue


class Elementwise(NamedTuple):
    lanes: int
    variant: str  # of the activation


class Instruction(NamedTuple):
    """One operator. Strides are in bytes."""

    x: int  # address
    x_image_stride: int
    x_pixel_stride: int
    factor: int  # address, or 0
    factor_image_stride: int  # 0 where images share their factors
    shift: int  # address, or 0
    other: int  # address, or 0
    other_image_stride: int
    other_pixel_stride: int
    y: int  # address
    y_image_stride: int
    y_pixel_stride: int
    images: int
    pixels: int  # of an image
    vectors: int  # of channels
    parallel_channels: int  # 1: threads split vectors of channels; 0: they split pixels
    activation: int  # its code within the kernel's variant


def reference(x: np.ndarray, factor=1, shift=0, other=0) -> np.ndarray:
    """x * factor + shift + other in the dtype of x; arguments broadcast against (N, pixels, C)."""
    return x * factor + shift + other


def example(lanes: int, generator: np.random.Generator, check) -> None:
    """All operands, factors of channels and of images, split by pixels and by channels."""
    x, other = generator.standard_normal((2, 2, 7, 3 * lanes), np.float32)
    factor, shift = (
        generator.standard_normal((2, 3 * lanes), np.float32),
        generator.standard_normal(3 * lanes, np.float32),
    )
    image, pixel, _ = x.strides
    strides = {f"{name}_image_stride": image for name in ("x", "other", "y")}
    strides |= {f"{name}_pixel_stride": pixel for name in ("x", "other", "y")}
    sizes = dict(images=2, pixels=7, vectors=3)
    for parallel in (0, 1):
        expected = reference(x.astype(np.float64), factor[:, None], shift, other)
        check(
            Elementwise(lanes, "piecewise"), expected, x=x, factor=factor, factor_image_stride=factor.strides[0],
            shift=shift, other=other, parallel_channels=parallel, **strides, **sizes,
        )  # fmt: skip
        check(Elementwise(lanes, "piecewise"), x, x=x, parallel_channels=parallel, **strides, **sizes)


def build(spec: Elementwise):
    """Assumes: the channels of a pixel are contiguous and have room for whole vectors."""
    from .simd.intrinsics import instruction_reader
    from .simd.tile import register_tile

    t, vector = register_tile(1, 1, spec.lanes), 4 * spec.lanes
    load, mul, add, minus_zeros = t.load, t.mul, t.add, t.minus_zeros
    store_result, read = epilogue(t, spec.variant), instruction_reader(Instruction)

    def elementwise(row_address, thread, threads):
        call, no_bias = read(row_address), minus_zeros()
        first, end = 0, call.images * call.pixels
        first_vector, end_vector = 0, call.vectors
        if call.parallel_channels:
            first_vector, end_vector = end_vector * thread // threads, end_vector * (thread + 1) // threads
        else:
            first, end = end * thread // threads, end * (thread + 1) // threads
        for item in range(first, end):
            image = item // call.pixels
            pixel = item - image * call.pixels
            x = call.x + image * call.x_image_stride + pixel * call.x_pixel_stride
            factor = call.factor + image * call.factor_image_stride
            other = call.other + image * call.other_image_stride + pixel * call.other_pixel_stride
            y = call.y + image * call.y_image_stride + pixel * call.y_pixel_stride
            for at in range(first_vector * vector, end_vector * vector, vector):
                acc = load(x + at, 0)
                if call.factor != 0:
                    acc = mul(acc, factor + at, 0)
                if call.shift != 0:
                    acc = add(acc, call.shift + at, 0)
                if call.other != 0:
                    acc = add(acc, other + at, 0)
                store_result(acc, call.activation, y + at, 0, no_bias)

    return elementwise


class StrassenSums(NamedTuple):
    lanes: int


class SumsInstruction(NamedTuple):
    """The sums of `pairs` pairs of pixels in each of `images` images. Strides, offsets and sizes are in bytes."""

    x: int  # address of the first pixel
    x_pair_stride: int
    x_image_stride: int
    odd_offset: int  # from the even pixel of a pair to the odd one
    y: int  # address; the sums of images follow each other without gaps
    y_pair_stride: int
    images: int
    pairs: int
    half: int  # half of the channels: whole vectors


def sums_reference(x: np.ndarray) -> np.ndarray:
    """x (pairs, 2, C) -> (pairs, 4, C / 2), in the dtype of x.

    Two pixels, each with its channels in two halves, are a 2 x 2 matrix ((a11, a12), (a21, a22)) of vectors; the four
    sums s1 to s4 are those of Winograd's form of the scheme (nanoinfer/lowering/strassen.py).
    """
    a11, a12, a21, a22 = np.moveaxis(x.reshape(len(x), 4, -1), 1, 0)
    s1 = a21 + a22
    s2 = s1 - a11
    return np.stack([s1, s2, a11 - a21, a12 - s2], 1)


def sums_example(lanes: int, generator: np.random.Generator, check) -> None:
    """Two images of pairs: neighbours, and pixels half an image apart."""
    channels = 6 * lanes
    x = generator.standard_normal((2, 5, 2, channels), np.float32)
    for pairs, pair_axis in ((x, 1), (np.ascontiguousarray(x.swapaxes(1, 2)), 2)):
        check(
            StrassenSums(lanes), sums_reference(x.reshape(10, 2, channels)).reshape(2, 5, -1),
            x=pairs, x_pair_stride=pairs.strides[pair_axis], x_image_stride=pairs.strides[0],
            odd_offset=pairs.strides[3 - pair_axis], y_pair_stride=8 * channels, images=2, pairs=5, half=2 * channels,
        )  # fmt: skip


def build_sums(spec: StrassenSums):
    """Threads split pairs. The pixels of the next pair are prefetched."""
    from .simd.intrinsics import instruction_reader, prefetch
    from .simd.tile import register_tile

    t, vector = register_tile(1, 1, spec.lanes), 4 * spec.lanes
    load, add, sub, store, read = t.load, t.add, t.sub, t.store, instruction_reader(SumsInstruction)

    def strassen_sums(row_address, thread, threads):
        call = read(row_address)
        half, pairs = call.half, call.images * call.pairs
        for pair in range(pairs * thread // threads, pairs * (thread + 1) // threads):
            image = pair // call.pairs
            even = call.x + image * call.x_image_stride + (pair - image * call.pairs) * call.x_pair_stride
            odd = even + call.odd_offset
            y = call.y + pair * call.y_pair_stride
            for at in range(0, half, vector):
                prefetch(even + call.x_pair_stride + at)
                prefetch(even + call.x_pair_stride + half + at)
                prefetch(odd + call.x_pair_stride + at)
                prefetch(odd + call.x_pair_stride + half + at)
                s1 = add(load(odd + at, 0), odd + half + at, 0)
                s2 = sub(s1, even + at, 0)
                store(s1, y + at, 0)
                store(s2, y + half + at, 0)
                store(sub(load(even + at, 0), odd + at, 0), y + 2 * half + at, 0)
                store(sub(load(even + half + at, 0), y + half + at, 0), y + 3 * half + at, 0)

    return strassen_sums
