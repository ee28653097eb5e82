"""The language that kernels are written in: explicit vectors for Numba, with the registers under the kernel's control.

Read `vector` (one SIMD vector with Python's operators), `tile` (register tiles: the values that kernels compute with),
`activation` (functions of a vector, and the epilogue of a tile), `intrinsics` (memory by address, atomics, prefetches).
"""

CACHE_LINE = 64  # bytes
# Partial sums of a reduction: as many at every number of lanes, since the order of a sum decides its bits.
PARTIALS = 16
