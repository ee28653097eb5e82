"""The tile for narrow groups: each channel meets the few channels of its own group (ResNeXt's 4 or 8).

A vector of output channels holds several whole groups. Each of a group's `width` input channels is spread over the
group's lanes by a shuffle inside the register, so nothing is loaded twice:

    acc[r][v] = bias[v];   for each tap, for each k:   acc[r][v] = fma(spread(x[r][v], k), w[tap][k][v], acc[r][v])
"""

from __future__ import annotations

from .activation import finish
from .convolution import REGION, TILE_START


def build(rows: int, vectors: int, lanes: int, activation: str, width: int):
    """The micro-kernel for `rows` pixels, `vectors` vectors of channels and groups of `width` channels.

    Assumes: the channels of a pixel are contiguous, in x, y and the residual, with room for whole vectors.
    """
    from .intrinsics import arguments, float_from_bits
    from .simd import block

    t = block(rows, vectors, lanes)
    load_row, add, store, fma_groups = t.load_row, t.add, t.store, t.fma_groups(width)
    activate, fields = finish(t, activation), arguments(len(REGION) - TILE_START, TILE_START)
    step = 4 * vectors * lanes * width

    def grouped(region, x, w, bias, y, count, ahead, ahead_end):
        (x_step, y_step, taps_y, taps_x, x_tap_y, x_tap_x, _, _, _, w_skip, residual, low, high) = fields(region)
        for _ in range(count):
            acc = load_row(bias)
            weight = w
            for ky in range(taps_y):
                for kx in range(taps_x):
                    acc = fma_groups(acc, x + ky * x_tap_y + kx * x_tap_x, x_step, weight)
                    weight += step
                weight += w_skip
            if residual != 0:
                acc = add(acc, y + residual, y_step)
            store(activate(acc, float_from_bits(low), float_from_bits(high)), y, y_step)
            x += rows * x_step
            y += rows * y_step

    return grouped
