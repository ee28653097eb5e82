"""How kernels become native code: Numba and LLVM compile them once, object files are cached, and loaded without either.

Read `library` (kernel specifications to addresses), `compiler` (Python function to object code), `cache` (the folder of
object files) and `elf` (a loader for them).
"""
