"""How runs of pixels are cut into tiles."""

import pytest

from nanoinfer.lowering.tiling import _even_mr
from nanoinfer.machine.tuning import AVX2, AVX512


@pytest.mark.parametrize(
    "tuning, nr, length, threads, pixels",
    [
        (AVX2, 2, 48, 1, 6),  # even
        (AVX2, 2, 49, 1, 5),  # 9 tiles and 4 pixels, not 8 tiles and a single pixel
        (AVX2, 2, 784, 1, 6),  # 4 pixels of 2 vectors are sums enough
        (AVX2, 2, 98, 1, 6),  # smaller tiles would leave 3 pixels, which are too few as well
        (AVX2, 2, 49, 2, 5),  # 10 tiles: as many for each thread
        (AVX512, 2, 49, 1, 13),
        (AVX512, 2, 98, 1, 14),
    ],
)
def test_tiles_are_even_or_the_last_one_keeps_the_pipes_busy(tuning, nr, length, threads, pixels):
    assert _even_mr(tuning, (tuning.matmul_mr[nr], nr), 1, length, threads) == pixels
