"""Compiles kernels for 64-bit Arm on this machine, for processes that an emulator runs: .ci/arm uses it.

    python -m tests.arm.compiler SOCKET

Numba and LLVM take much longer under an emulator. So a pytest there, with `-p tests.arm.emulated`, sends
specs of the kernels that it lacks to this process, and gets their object code.
"""

import sys
from multiprocessing.connection import Listener

from nanoinfer.kernels.jit import library
from nanoinfer.kernels.jit.compiler import compile_settings
from nanoinfer.kernels.jit.target import Target

NEON = Target("aarch64-unknown-linux-gnu", "generic", "+neon")


def serve(path):
    """Answer one process after another, until killed."""
    with Listener(path) as listener, compile_settings():
        while True:
            with listener.accept() as connection:
                try:
                    while True:
                        connection.send(library.compiled_for(NEON, connection.recv()))
                except EOFError:
                    pass


if __name__ == "__main__":
    serve(sys.argv[1])
