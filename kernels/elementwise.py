"""What is left when nothing is fused: scale, shift, sum and activation, element by element.

    y = activation(x * factor + shift + other)

`factor` is one value per channel (batch norm) or per image and channel (squeeze-and-excite), `shift` one per
channel, `other` a second activation of the same shape (residual); each may be absent (address 0).
"""

from __future__ import annotations

from .simd.activation import FIELDS as ACTIVATION
from .simd.activation import finish
from .simd.activation import oracle as activate

FIELDS = (
    "x", "x_image", "x_pixel", "factor", "factor_image", "shift", "other", "other_image", "other_pixel",
    "y", "y_image", "y_pixel", "images", "pixels", "vectors", "split_channels", *ACTIVATION,
)  # fmt: skip


def oracle(x, factor=1, shift=0, other=0, activation=None):
    """The definition in NumPy, in the dtype of x; arguments broadcast against (N, pixels, C)."""
    return activate(x * factor + shift + other, activation)


def build(lanes: int, activation: str):
    """Threads split pixels or channels; the channels of a pixel are contiguous with room for whole vectors."""
    from .simd.intrinsics import arguments
    from .simd.tile import block

    t = block(1, 1, lanes)
    load, mul, add = t.load, t.mul, t.add
    store_activated, fields = finish(t, activation), arguments(len(FIELDS))

    def elementwise(instruction, thread, threads):
        (x, x_image, x_pixel, factor, factor_image, shift, other, other_image, other_pixel, y, y_image, y_pixel,
         images, pixels, vectors, split_channels, kind) = fields(instruction)  # fmt: skip
        first, end = 0, images * pixels
        first_vector, end_vector = 0, vectors
        if split_channels:
            first_vector, end_vector = vectors * thread // threads, vectors * (thread + 1) // threads
        else:
            first, end = end * thread // threads, end * (thread + 1) // threads
        for unit in range(first, end):
            image = unit // pixels
            pixel = unit - image * pixels
            source = x + image * x_image + pixel * x_pixel
            second = other + image * other_image + pixel * other_pixel
            target = y + image * y_image + pixel * y_pixel
            for at in range(first_vector * 4 * lanes, end_vector * 4 * lanes, 4 * lanes):
                acc = load(source + at, 0)
                if factor != 0:
                    acc = mul(acc, factor + image * factor_image + at, 0)
                if shift != 0:
                    acc = add(acc, shift + at, 0)
                if other != 0:
                    acc = add(acc, second + at, 0)
                store_activated(acc, kind, target + at, 0)

    return elementwise
