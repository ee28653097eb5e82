"""Levels: the kinds of CPU that object code is compiled for ahead of time, and the one of this process.

A level is a set of instructions that many CPUs share, as the psABI of x86-64 numbers them. Its code runs on every CPU
that has these; code for the exact CPU differs in the order of instructions, and bits are the same.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import NamedTuple

from . import target


class Level(NamedTuple):
    """`flags` are what Linux's /proc/cpuinfo lists for a CPU that can run its code.

    `vectors` are the kinds of machine that are planned with its kernels: (lanes, registers, double-pumped).
    """

    target: target.Target
    flags: frozenset[str]
    vectors: tuple[tuple[int, int, bool], ...]


_V3 = frozenset("avx avx2 bmi1 bmi2 f16c fma abm movbe xsave".split())
_V4 = _V3 | frozenset("avx512f avx512bw avx512cd avx512dq avx512vl".split())
_LINUX = "x86_64-unknown-linux-gnu"
# The best first.
LEVELS: dict[str, Level] = {
    "x86-64-v4": Level(target.Target(_LINUX, "x86-64-v4", ""), _V4, ((16, 32, False), (16, 32, True))),
    "x86-64-v3": Level(target.Target(_LINUX, "x86-64-v3", ""), _V3, ((8, 16, False),)),
    # All have NEON, and an emulator's /proc/cpuinfo may be that of another processor.
    "aarch64": Level(target.Target("aarch64-unknown-linux-gnu", "generic", "+neon"), frozenset(), ((4, 32, False),)),
}
# CPUs that NUMBA_CPU_NAME may name, with no features besides, that have a level's instructions and no others that
# kernels use.
NAMED = {
    "x86-64-v4": "x86-64-v4", "skylake-avx512": "x86-64-v4", "x86-64-v3": "x86-64-v3", "haswell": "x86-64-v3",
    "generic": "aarch64",
}  # fmt: skip


@cache
def level() -> str | None:
    """The best level that this process's CPU has, or the one of the CPU that is chosen; None if there is none."""
    if sys.platform != "linux":
        return None
    fields = target.fields()
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    processor = os.uname().machine
    able = [name for name, row in LEVELS.items() if row.target.triple.startswith(processor) and row.flags <= flags]
    name, features = target.chosen()
    if (name, features) == (None, None):
        return able[0] if able else None
    return NAMED[name] if features == "" and NAMED.get(name) in able else None


def vectors() -> tuple[int, int, bool] | None:
    """(lanes, registers, double-pumped) of this process's CPU by its level; None if it has none.

    Of AMD's family 25, Zen 3 has no AVX-512, and Zen 4 runs a 512-bit instruction as two halves.
    """
    if level() is None:
        return None
    fields, kinds = target.fields(), LEVELS[level()].vectors
    zen4 = (fields.get("vendor_id"), fields.get("cpu family")) == ("AuthenticAMD", "25")
    halves = zen4 and target.chosen() == (None, None)
    return next((kind for kind in kinds if kind[2] == halves), kinds[0])
