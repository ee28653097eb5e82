"""Kernels compiled for 64-bit Arm on any machine: what their code holds, read off the object files.

.ci/arm runs them.
"""

import struct

import pytest
from nanoinfer.kernels.depthwise import Depthwise
from nanoinfer.kernels.jit import elf, library, relocations
from nanoinfer.kernels.matmul import Matmul
from nanoinfer.kernels.peak import Peak
from nanoinfer.kernels.stem import Stem
from nanoinfer.kernels.team import Leader

from nanoinfer.machine.tuning import NEON as TUNING
from tests.arm.compiler import NEON

MULTIPLY_ADDS = {0xFFE0FC00: 0x4E20CC00, 0xFFC0F400: 0x4F801000}  # fmla of four lanes: by vector, by element
# str, stp, ldr and ldp of whole vectors relative to the stack pointer.
STACK = {0xFFC003E0: {0x3D8003E0, 0xAD0003E0, 0x3DC003E0, 0xAD4003E0}}
READ_COUNTER, READ_MODE, WRITE_MODE = 0xD53BE040, 0xD53B4400, 0xD51B4400  # mrs of cntvct_el0 and fpcr, msr of fpcr
TILES = [(mr, nr) for nr, mr in TUNING.matmul_mr.items()]


def instructions(spec):
    _, code = library.compiled_for(NEON, spec)
    file = elf._Object(code, relocations.AARCH64)
    [text] = [number for number in file.parts() if file.names[number].startswith(b".text")]
    return [word for (word,) in struct.iter_unpack("<I", file.content(file.sections[text]))]


def signed(field, bits):
    return field - (1 << bits) if field >> bits - 1 else field


def target(at, word):
    """Where a branch goes, in instructions; None for what is no branch."""
    if word & 0xFF000010 == 0x54000000 or word & 0x7E000000 == 0x34000000:  # b.cond, cbz, cbnz
        return at + signed(word >> 5 & 0x7FFFF, 19)
    if word & 0x7E000000 == 0x36000000:  # tbz, tbnz
        return at + signed(word >> 5 & 0x3FFF, 14)
    return at + signed(word & 0x3FFFFFF, 26) if word & 0xFC000000 == 0x14000000 else None


def is_multiply_add(word):
    return any(word & mask == value for mask, value in MULTIPLY_ADDS.items())


def shortest_loop(words):
    """The instructions of the shortest loop that has multiply-adds: of a product, its loop over k."""
    ends = {at: target(at, word) for at, word in enumerate(words)}
    loops = [words[begin : at + 1] for at, begin in ends.items() if begin is not None and begin <= at]
    return min((loop for loop in loops if any(map(is_multiply_add, loop))), key=len)


def on_stack(words):
    return sum(word & mask in values for word in words for mask, values in STACK.items())


PRODUCTS = [Matmul(mr, nr, 4, "piecewise", form) for mr, nr in TILES for form in ("pointwise", "taps", "partial")]
STEMS = [Stem(mr, nr, 4, 24, "piecewise") for mr, nr in TILES if nr in (2, 3)]


@pytest.mark.parametrize("spec", [*PRODUCTS, *STEMS, Peak(TUNING.peak_chains, 4)], ids=str)
def test_largest_tiles_stay_in_registers(spec):
    """In the innermost loop all sums do, one multiply-add for each of them."""
    loop = shortest_loop(instructions(spec))
    sums = spec.chains if isinstance(spec, Peak) else spec.mr * spec.nr
    assert sum(map(is_multiply_add, loop)) % sums == 0
    assert on_stack(loop) == 0


@pytest.mark.parametrize("window, stride", [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_depthwise_convolution_keeps_nothing_on_the_stack(window, stride):
    spec = Depthwise(window, stride, window // 2, TUNING.depthwise_mr, 4, "piecewise", 1)
    assert on_stack(instructions(spec)) == 0


def test_a_tile_of_too_many_pixels_does_not():
    assert on_stack(instructions(Peak(28, 4))) > 0


def test_a_thread_reads_the_counter_and_mode_that_linux_lets_it():
    """PMCCNTR_EL0, which is not for user space, would end the process."""
    registers = {word & ~31 for word in instructions(Leader()) if word & 0xFFD00000 == 0xD5100000}
    assert registers == {READ_COUNTER, READ_MODE, WRITE_MODE}
