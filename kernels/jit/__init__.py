"""How kernels become native code: Numba and LLVM compile them once, object files are cached, and loaded without either.

Read `library` (kernel specifications to addresses), `target` (what native code depends on), `compiler` (Python function
to object code), `levels` and `shipped` (object files that a wheel holds), `cache` (the folder of those that were
compiled here), `elf` (a loader for them), `relocations` (the addresses that it fills in) and `fork` (locks that a fork
takes).
"""
