"""Every constant that decides how a network is planned, in one table for each kind of machine.

Names follow BLIS: M are pixels, N output channels, K input channels; `mr` pixels and `nr` vectors of output channels
are the shape of a register tile. Shares are fractions of a cache's size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Numerics(NamedTuple):
    """Constants that decide bits. They have one value for all machines, since the same bits are promised everywhere.

    (Rules without a constant decide bits, too: where a gate scales weights, which groups are narrow, what is a patch.)
    """

    # Input channels in one chain of multiply-adds. Where an output is a single pixel (a network's head, the gates of
    # squeeze-and-excite), torch multiplies a matrix by a vector, with many short sums; there accuracy costs nothing.
    k_block: int = 128
    k_block_of_one_pixel: int = 64
    # Strassen's scheme: narrower or smaller products would gain less than the sums and more weights cost.
    strassen_channels: int = 256  # fewest input and output channels
    strassen_pixels: int = 48  # fewest pixels of an image
    strassen_channel_unit: int = 64  # channels are multiples: their halves are whole micro-panels on every machine
    strassen_unevenness: float = 4.0  # most by which uneven scales may raise its mean square error (graph/scales.py)
    strassen_neighbours_from: int = 128  # pixels of an image from which on a pair is two neighbours


class Tuning(NamedTuple):
    """How networks are planned. Each default was measured on an AMD EPYC of the Zen 4 generation (AVX-512, 32 vector
    registers, 1 MiB of L2 a core, 2 virtual cores), float32, on the networks of the README; those of prefetches and of
    depthwise tiles on an Intel Xeon of the Emerald Rapids generation (2 MiB of L2), and `alias_stride` on one of the
    Granite Rapids class. What AVX2 has for itself was measured on an AMD EPYC of the Zen 3 generation (512 KiB of L2).
    """

    # Register tiles. Most pixels of a tile, by its vectors: accumulators, a vector of weights for each of nr and one
    # broadcast have to fit the registers. Seven, not eight, of three vectors: that divides images of 14 and 28 rows, so
    # there is one kernel fewer to compile.
    matmul_mr: Mapping[int, int] = {1: 14, 2: 14, 3: 7, 4: 6, 5: 5}
    pool_mr: Mapping[int, int] = {1: 8, 2: 8}
    depthwise_mr: int = 14  # most pixels of a tile of depthwise convolution
    grouped_mr: int = 8  # and of one with narrow groups
    attention_tile: tuple[int, int] = (6, 4)  # (mr, nr)
    peak_chains: int = 24  # accumulators of the kernel that measures the peak

    # Cutting an output. Vectors of a micro-panel: usually, of the last where one vector would be left over, and in a
    # head. Where an output is a sum of at most `wide_panel_k` products, so that wide micro-panels stay in L1, the first
    # two change places.
    panel_nr: int = 2
    last_panel_nr: int = 3
    head_nr: int = 4
    wide_panel_k: int = 0
    # A head (one pixel, many channels) is as fast as its weights arrive: four streams of sums hide
    # more of the latency of a multiply-add than two.
    head_vectors: int = 48  # vectors of channels from which on micro-panels of a single pixel have four of them
    stem_channels: int = 4  # most input channels of a stem (a network's first convolution), which has its own kernel,
    stem_steps: int = 256  # and most elements of the input that meet in a pixel of its output
    even_tiles: float = 0.8  # tiles of a run may be smaller than the largest by this factor, if all are equal then
    # Vectors of sums of the smaller tile at the end of a run: each of fewer waits for its last multiply-add (two pipes,
    # four cycles), so that the tile takes as long as one of so many.
    fewest_sums: int = 8
    tiles_a_thread: int = 8  # of a single run with fewer, every thread has the same share
    most_imbalance: float = 1.125  # depthwise threads split channels if the longest part is at most this times the mean
    block_bytes: int = 256 << 10  # of input pixels in an L2 block; of a band of rows in depthwise convolution

    # Prefetch.
    # Bytes by which a product's prefetches go on with each step over k, where weights of a later step are pending, and
    # where none are: what comes in faster than memory delivers occupies the line fill buffers, and the core waits.
    prefetch_step: int = 64
    slowest_prefetch_step: int = 8
    prefetch_output_above: float = 0.25  # of L2: larger outputs are evicted before they are written again
    prefetch_rows_above: float = 0.5  # of the threads' L2: larger inputs and outputs of fused blocks lie in L3
    lookahead_gap: int = 16 << 10  # bytes between two weights that are prefetched as one range

    # Depth-first fusion. A block is fused if a thread's share of an image's intermediate activations exceeds
    # min_intermediate_bytes / images + weight_reread_cost * the block's weights, which every image reads again.
    min_intermediate_bytes: float = 128 << 10
    weight_reread_cost: float = 0.22
    line_buffer_share: float = 0.3  # of L2, for line buffer and row band together

    # Strassen's scheme.
    strassen_workspace_bytes: int = 1280 << 10  # a thread's sums: so many that weights are not read too often
    strassen_unit: int = 14  # pairs that stay together where threads share them: a tile of 32 registers

    # Memory.
    alias_stride: int = 256  # pixels at multiples of it meet in a quarter of the sets of L1 at most: a line is added
    reuse_delay: int = 2  # nodes for which small memory that threads share rests after its last use
    reuse_delay_below: float = 0.5  # of L2: larger values are evicted before they are overwritten
    activation_share: float = 0.3  # of L3, for the activations of a micro-batch; the rest is for weights, and others
    pack_bytes: int = 8 << 20  # weights that are read and written between two releases of their source

    numerics: Numerics = Numerics()


AVX512 = Tuning()
# Where half a vector is half the work, groups of half a vector are computed as on AVX2 (lowering/depthwise.py), and
# eight chains of multiply-adds keep the pipes busy. Measured there, not on Zen 4.
DOUBLE_PUMPED = AVX512._replace(grouped_mr=10)
# 16 registers. A step over k takes half the time of one of 32 registers, so memory delivers half as much in it.
AVX2 = AVX512._replace(
    matmul_mr={1: 12, 2: 6, 3: 4, 4: 2},
    pool_mr={1: 8, 2: 6},
    attention_tile=(6, 2),
    depthwise_mr=8,
    grouped_mr=10,
    peak_chains=12,
    prefetch_step=24,
    wide_panel_k=170,
    min_intermediate_bytes=1 << 20,
    line_buffer_share=0.75,
)
# Not measured: register tiles are those that fit, and all else is as on the machine whose registers are as many.
SSE = AVX2
# Not measured on Arm. Register tiles are those for which LLVM keeps few vectors on the stack and none in the loop over
# k (tests/jit/test_arm_code.py); a step of a matrix product is a load for each pixel, whose multiply-adds take the
# float out of that register.
NEON = AVX512._replace(
    matmul_mr={1: 14, 2: 12, 3: 7, 4: 6, 5: 4}, pool_mr={1: 8, 2: 6}, depthwise_mr=8, peak_chains=20, strassen_unit=12
)

# By (lanes, registers, double-pumped). `python -m bench.tune` measures such a table.
TUNINGS: dict[tuple[int, int, bool], Tuning] = {
    (16, 32, True): DOUBLE_PUMPED,
    (16, 32, False): AVX512,
    (8, 16, False): AVX2,
    (4, 16, False): SSE,
    (4, 32, False): NEON,
}
