"""Cached object files are loaded without LLVM where the format is known, and by LLVM elsewhere."""

import platform
import struct
import sys

import pytest
from nanoinfer.kernels.elementwise import Elementwise
from nanoinfer.kernels.jit import elf, library

from tests.jit.processes import run_linear_gelu


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="elsewhere LLVM loads kernels")
def test_cached_kernels_load_without_llvm(filled):
    cache, first = filled
    seen = run_linear_gelu(cache, "sys.modules['llvmlite.binding'] = None  # makes its import fail")
    assert seen == {**first, "compiled": False}


def test_llvm_loads_the_same_cached_kernels(filled):
    cache, first = filled
    before = "from nanoinfer.kernels.jit import elf\nelf.load = lambda objects: None"
    assert run_linear_gelu(cache, before) == {**first, "compiled": False}


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="ELF for x86-64")
def test_elf_loader_refuses_broken_and_unknown_objects():
    [(symbol, code)] = library._compile([Elementwise(16, "gelu")]).values()
    assert len(elf.load([(symbol, code)])) == 1
    for broken in (b"", b"MZ", code[:70], code[:18] + b"\xb7" + code[19:], code[: len(code) // 2]):
        assert elf.load([(symbol, broken)]) is None
    assert elf.load([("another", code)]) is None
    relocations = next(section for section in elf._Object(code).sections if section[0] == elf.RELA)
    kind = relocations[2] + 8  # the low word of the second field of the first relocation
    assert struct.unpack_from("<I", code, kind) == (elf.ABSOLUTE64,)
    assert elf.load([(symbol, code[:kind] + struct.pack("<I", 2) + code[kind + 4 :])]) is None
