"""The machine that networks are planned for: vectors, registers, caches and the tuning that was measured on its kind.

Planning takes a Machine as input and asks nothing else of the computer, so a plan for any machine can be made, looked
at and run (more slowly) on another.
"""

from __future__ import annotations

import functools
import json
import platform
from dataclasses import dataclass
from pathlib import Path

from ..kernels.jit import cache, levels, target
from .tuning import TUNINGS, Tuning

FMA = """
define <16 x float> @f(<16 x float> %a, <16 x float> %b, <16 x float> %c) {
  %r = call <16 x float> @llvm.fma.v16f32(<16 x float> %a, <16 x float> %b, <16 x float> %c)
  ret <16 x float> %r
}
declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)
"""
# CPUs that run a 512-bit instruction as two halves, so that half a vector is half the work.
DOUBLE_PUMPED = {"znver4"}
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True)
class Machine:
    """What planning knows of a computer; `double_pumped` CPUs run an instruction on a vector as two on half of it."""

    lanes: int  # float32 in a vector register
    registers: int  # vector registers
    double_pumped: bool
    l2_bytes: int  # of a core
    l3_bytes: int  # of all
    tuning: Tuning


@functools.cache
def host() -> Machine:
    """The machine that this process's kernels are for."""
    vectors = levels.vectors() or _kept_vectors()
    return Machine(*vectors, *cache_sizes(), TUNINGS[vectors])


def _kept_vectors() -> tuple[int, int, bool]:
    """_vectors(), from the kernel cache if LLVM was asked before."""
    name = f"vectors-{cache.source_digest(__file__)}"
    known = cache.read(name)
    if known is None:
        known = json.dumps(_vectors()).encode()
        cache.write(name, known)
    return tuple(json.loads(known))


def _vectors() -> tuple[int, int, bool]:
    """(lanes, registers, double-pumped) of a target that has no level, as LLVM tells.

    Every 64-bit Arm has NEON, and kernels use no more. On x86-64 the host's own features tell, unless one of the
    two is set. Then the code generator itself is asked: a 16-lane multiply-add is compiled, and the registers that it
    comes out in are looked at. That holds for any CPU, by name or by features.
    """
    if platform.machine().lower() in ("aarch64", "arm64"):
        return 4, 32, False
    generator, (name, features), llvm = target.machine(), target.chosen(), target.llvm()
    cpu = name or llvm.get_host_cpu_name()
    if not name and features is None and platform.machine().lower() in ("x86_64", "amd64"):
        present = llvm.get_host_cpu_features()
        lanes = 16 if present.get("avx512f") else 8 if present.get("avx") else 4
        return lanes, 32 if lanes == 16 else 16, lanes == 16 and cpu in DOUBLE_PUMPED
    assembly = generator.emit_assembly(llvm.parse_assembly(FMA))
    if "zmm" in assembly:
        return 16, 32, cpu in DOUBLE_PUMPED
    if "ymm" in assembly:
        return 8, 16, False
    return 4, 16 if "xmm" in assembly else 32, False


def cache_sizes() -> tuple[int, int]:
    """Bytes of the first core's L2 and L3, as Linux tells; usual sizes where it does not."""
    sizes = {2: 1 << 20, 3: 16 << 20}
    for index in CACHES.glob("index*"):
        try:
            level, kind = int((index / "level").read_text()), (index / "type").read_text().strip()
            text = (index / "size").read_text().strip()
        except (OSError, ValueError):
            continue
        if kind != "Instruction" and level in sizes:
            sizes[level] = int(text[:-1]) << {"K": 10, "M": 20, "G": 30}[text[-1]]
    return sizes[2], sizes[3]
