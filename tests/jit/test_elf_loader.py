"""Cached object files are loaded without LLVM where the format is known, and by LLVM elsewhere."""

import struct
import sys

import pytest
from nanoinfer.kernels.jit import elf, library, relocations
from nanoinfer.kernels.team import Worker

from tests.jit.processes import run_linear_gelu

elsewhere_llvm_loads = pytest.mark.skipif(
    sys.platform != "linux" or relocations.host() is None, reason="elsewhere LLVM loads kernels"
)


@elsewhere_llvm_loads
def test_cached_kernels_load_without_llvm(filled):
    cache, first = filled
    seen = run_linear_gelu(cache, "sys.modules['llvmlite.binding'] = None  # makes its import fail")
    assert seen == {**first, "compiled": False}


def test_llvm_loads_the_same_cached_kernels(filled):
    cache, first = filled
    before = "from nanoinfer.kernels.jit import elf\nelf.load = lambda objects: None"
    assert run_linear_gelu(cache, before) == {**first, "compiled": False}


@elsewhere_llvm_loads
def test_elf_loader_refuses_broken_and_unknown_objects():
    [(symbol, code)] = library._compile([Worker()]).values()
    assert len(elf.load([(symbol, code)])) == 1
    for broken in (b"", b"MZ", code[:70], code[:18] + b"\x03" + code[19:], code[: len(code) // 2]):
        assert elf.load([(symbol, broken)]) is None
    assert elf.load([("another", code)]) is None
    file = elf._Object(code, relocations.host())
    filled = file.parts()  # tables of other sections, such as .eh_frame's, are left alone
    table = next(section for section in file.sections if section[0] == elf.RELA and section[5] in filled)
    kind = table[2] + 8  # the low word of the second field of the first relocation
    assert struct.unpack_from("<I", code, kind)[0] in relocations.host().relocations
    assert elf.load([(symbol, code[:kind] + struct.pack("<I", 2) + code[kind + 4 :])]) is None


ADRP, ADD, CALL, MOVE = 0x90000008, 0x91000108, 0x94000000, 0xF2800008  # adrp x8; add x8, x8; bl; movk x8


@pytest.mark.parametrize(
    "kind, word, place, target, filled",
    [
        (275, ADRP, 0x1FFC, 0x2001, 0xB0000008),  # the next page
        (275, ADRP, 0x10_0000_0000, 0xF_0000_0FFF, 0x90800008),  # 4 GiB before
        (277, ADD, 0, 0x12345ABC, 0x912AF108),
        (283, CALL, 0x1000, 0x1010, 0x94000004),
        (283, CALL, 0x1010, 0x1000, 0x97FFFFFC),
        (283, CALL, 0, 0x7FFFFFC, 0x95FFFFFF),  # the furthest
        (264, MOVE, 0, 0x123456789ABCDEF0, 0xF29BDE08),
        (266, MOVE, 0, 0x123456789ABCDEF0, 0xF2935788),
        (268, MOVE, 0, 0x123456789ABCDEF0, 0xF28ACF08),
        (269, MOVE, 0, 0x123456789ABCDEF0, 0xF2824688),
    ],
)
def test_addresses_in_instructions_of_arm(kind, word, place, target, filled):
    """objdump shows the expected words as adrp, add, bl and movk of that page, low part, distance and quarter."""
    content = bytearray(struct.pack("<III", 1, word, 2))
    relocations.AARCH64.relocations[kind](content, 4, place, target)
    assert struct.unpack("<III", content) == (1, filled, 2)


@pytest.mark.parametrize("kind, target", [(283, 0x8000000), (283, -0x8000004), (275, 1 << 32), (275, -(1 << 32) - 1)])
def test_an_address_out_of_reach_is_refused(kind, target):
    with pytest.raises(ValueError, match="out of reach"):
        relocations.AARCH64.relocations[kind](bytearray(8), 0, 0, target)
