"""Compilation of kernels beside the user's own use of Numba."""

import gc
import math

import pytest
from nanoinfer.kernels.jit import compiler
from nanoinfer.kernels.simd import intrinsics
from numba import config, njit

from tests.jit.processes import start


def test_settings_for_compilation_are_restored(monkeypatch):
    monkeypatch.setattr(config, "DISABLE_JIT", True)
    before = gc.get_threshold()
    with pytest.raises(KeyboardInterrupt), compiler.compile_settings():
        assert not config.DISABLE_JIT and gc.get_threshold()[0] >= 10_000
        raise KeyboardInterrupt
    assert config.DISABLE_JIT and gc.get_threshold() == before


def test_kernel_may_call_nothing_but_intrinsics():
    other, store = njit(lambda x: x + 1), intrinsics.store_i64

    def calls_a_function(instruction, thread, threads):
        store(instruction, other(thread))

    def allocates(instruction, thread, threads):
        store(instruction, [thread][0])

    def calls_the_c_library(instruction, thread, threads):
        store(instruction, int(math.gamma(threads)))

    for kernel in (calls_a_function, allocates, calls_the_c_library):
        with pytest.raises(TypeError, match=f"{kernel.__name__} calls .*; it can call nothing but intrinsics"):
            compiler.object_code(kernel, 3)


def test_another_thread_may_compile_at_the_same_time(tmp_path):
    """The first njit of another thread, begun amid a kernel's compilation, waits for it without deadlock."""
    code = """
import threading, time, numba
from nanoinfer.kernels.jit import compiler, library
from nanoinfer.kernels.packing import Packing
def meanwhile(flags=compiler.Flags):
    other.start()
    time.sleep(0.5)
    return flags()
other, compiler.Flags = threading.Thread(target=lambda: numba.njit("i8(i8)")(lambda x: x + 1)), meanwhile
library._compile([Packing()])
other.join()
"""
    process = start(code, tmp_path)
    try:
        assert (process.communicate(timeout=60)[1], process.returncode) == ("", 0)
    finally:
        process.kill()
