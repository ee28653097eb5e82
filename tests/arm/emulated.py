"""A plugin of pytest for an emulated machine, whose processes another one compiles for (compiler.py).

NANOINFER_TEST_COMPILER is the socket of that process; if it is empty, Numba compiles under the emulator.
NANOINFER_TEST_PYTHON is the command that runs Python there, for processes that tests start.
"""

import os
import sys
from functools import cache
from multiprocessing.connection import Client

from nanoinfer.kernels import kernel_name
from nanoinfer.kernels.jit import cache as files
from nanoinfer.kernels.jit import library


@cache
def compiler():
    return Client(os.environ["NANOINFER_TEST_COMPILER"])


def compile_elsewhere(specs, progress=None):
    """As library._compile."""
    compiled = {}
    for spec in specs:
        compiler().send(spec)
        name = kernel_name(spec)
        compiled[name] = symbol, code = compiler().recv()
        files.write(name, symbol.encode() + b"\n" + code)
    return compiled


def no_other_loader(objects):
    raise AssertionError("kernels/jit/elf.py refused an object file")


def pytest_configure():
    sys.executable = os.environ["NANOINFER_TEST_PYTHON"]
    if os.environ["NANOINFER_TEST_COMPILER"]:
        library._compile = compile_elsewhere
        library._load_with_llvm = no_other_loader
