"""Systems that restrict executable memory: kernels load under a file mapping, or one line says what to do."""

import platform
import sys

import pytest

from tests.jit.processes import LINEAR_GELU, run_linear_gelu, start

# Numbers of the system calls mprotect and memfd_create.
CALLS = {"x86_64": (10, 319), "aarch64": (226, 279)}.get(platform.machine(), (-1, -1))
pytestmark = pytest.mark.skipif(sys.platform != "linux" or CALLS[0] < 0, reason="elsewhere LLVM loads kernels")
# No memory becomes executable that was writable; nothing is printed where the kernel cannot refuse it (before 6.3).
REFUSE_GAIN = """
import ctypes
assert not ctypes.CDLL(None).prctl(65, 1, 0, 0, 0), "no PR_SET_MDWE here"
"""
# As the filter that systemd installs on older kernels: mprotect with PROT_EXEC has no permission; and, with `memfd`,
# no file in memory either.
FILTER = """
import ctypes, struct
LOAD, EQUAL, SET, RETURN = 0x20, 0x15, 0x45, 0x06
steps = [(LOAD, 0, 0, 0), (EQUAL, 0, 3, {mprotect}), (LOAD, 0, 0, 32), (SET, 0, 1, 4), (RETURN, 0, 0, 0x50001),
         (LOAD, 0, 0, 0), (EQUAL, 0, 1, {memfd}), (RETURN, 0, 0, 0x50001), (RETURN, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(code)))
system = ctypes.CDLL(None)
system.prctl.argtypes = ctypes.c_int, *[ctypes.c_size_t] * 4
assert not system.prctl(38, 1, 0, 0, 0) and not system.prctl(22, 2, ctypes.addressof(program), 0, 0), "no filter here"
"""
NO_MPROTECT, NO_MEMORY = (FILTER.format(mprotect=CALLS[0], memfd=n & 0xFFFFFFFF) for n in (-1, CALLS[1]))
RESTRICTIONS = {"refuse gain": REFUSE_GAIN, "no mprotect": NO_MPROTECT}


def last_line(process):
    """What ends a process, which fails by an exception and not by a signal."""
    _, error = process.communicate(timeout=300)
    if "AssertionError" in error:
        pytest.skip(error.splitlines()[-1])
    assert process.returncode == 1, error
    return error.splitlines()[-1]


@pytest.mark.parametrize("restriction", RESTRICTIONS)
def test_cached_kernels_load_where_writable_memory_never_becomes_executable(restriction, filled):
    cache, first = filled
    process = start(LINEAR_GELU.format(before=RESTRICTIONS[restriction]), cache)
    out, error = process.communicate(timeout=300)
    if "AssertionError" in error:
        pytest.skip(error.splitlines()[-1])
    assert not process.returncode, error
    assert f'"bits": "{first["bits"]}", "compiled": false, "warnings": []' in out


@pytest.mark.parametrize("restriction", RESTRICTIONS)
def test_where_nothing_can_be_compiled_one_line_says_so(restriction, tmp_path):
    before = RESTRICTIONS[restriction] + "\nhost()"  # asks LLVM, which is allowed
    line = last_line(start(LINEAR_GELU.format(before=before), tmp_path / "cache"))
    assert line.startswith("nanoinfer.errors.InputError: kernels cannot be compiled here (")
    assert "run 'nanoinfer warmup' once without" in line


@pytest.mark.parametrize("loader", ["elf", "LLVM"])
def test_without_executable_memory_one_line_says_so(loader, filled):
    other = "\nfrom nanoinfer.kernels.jit import elf\nelf.load = lambda objects: None" if loader == "LLVM" else ""
    line = last_line(start(LINEAR_GELU.format(before=NO_MEMORY + other), filled[0]))
    assert line.startswith("nanoinfer.kernels.jit.elf.Refused: this system refuses executable memory")
    assert "MemoryDenyWriteExecute=no" in line and ("mapped: " in line) == (loader == "elf")


def test_a_command_ends_with_that_line(predicted):
    code = NO_MEMORY + "import sys; from nanoinfer.cli import main; sys.exit(main(['predict']))"
    process = start(code, predicted[0])
    _, error = process.communicate(timeout=300)
    if "AssertionError" in error:
        pytest.skip(error.splitlines()[-1])
    assert process.returncode == 2 and error.count("\n") == 1
    assert error.startswith("nanoinfer: this system refuses executable memory")


@pytest.mark.parametrize("way", ["_protected", "_mapped"])
def test_memory_is_never_writable_and_executable(way, filled):
    """Either way gives the same bits, and memory of kernels that is executable and not writable."""
    before = f"""
import atexit, os
from nanoinfer.kernels.jit import elf
def other(size, image):
    raise OSError("not this way")
for name in {{"_protected", "_mapped"}} - {{"{way}"}}:
    setattr(elf, name, other)
kept, keep = [], elf._address
elf._address = lambda memory: kept.append(keep(memory)) or kept[-1]
def look():
    rights = []
    for line in open("/proc/self/maps"):
        (begin, end), right = (int(bound, 16) for bound in line.split()[0].split("-")), line.split()[1]
        rights += [right] if begin <= kept[-1] < end else []
    if rights != ["r-xp"]:
        os._exit(3)
atexit.register(look)
"""
    cache, first = filled
    assert run_linear_gelu(cache, before) == {**first, "compiled": False}
