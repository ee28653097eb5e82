"""The computer as nanoinfer sees it: system, CPU and compilation target, threads, memory."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from .checkup import Facts

CPUINFO = Path("/proc/cpuinfo")
ENOUGH = 256  # MiB of memory, for the weights of most networks
SHOWN_FLAGS = "avx2 fma avx512f amx_int8 avx512_vnni avx_vnni asimd asimddp i8mm sve hypervisor".split()
# By (lanes, registers).
INSTRUCTIONS = {(16, 32): "AVX-512", (8, 16): "AVX2", (4, 16): "SSE", (4, 32): "NEON"}


def computer(facts: Facts) -> Iterator[str]:
    """System and CPU, without any package."""
    fields = cpu_fields()
    facts["system"] = f"{platform.system()} {platform.release()}, {platform.machine()}"
    facts["c_library"] = " ".join(platform.libc_ver()).strip() or None
    facts["distribution"] = distribution()
    facts["cpu"] = fields.get("model name") or fields.get("CPU part") or platform.processor() or None
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    facts["cpu_flags"] = [flag for flag in SHOWN_FLAGS if flag in flags]
    facts["load"] = [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None
    yield from ()


def target(facts: Facts) -> Iterator[str]:
    """What kernels are compiled for, and why; caches."""
    from ..kernels.jit import target
    from ..machine import host

    name, features = target.chosen()
    forced = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    forced = [f"{variable}={value}" for variable, value in forced.items() if value is not None]
    machine = host()
    facts["instructions"] = INSTRUCTIONS.get((machine.lanes, machine.registers))
    facts["because"] = f"{' '.join(forced)} in the environment" if forced else "the CPU itself has them"
    facts["lanes"], facts["registers"] = machine.lanes, machine.registers
    facts["double_pumped"] = machine.double_pumped
    facts["l2_bytes"], facts["l3_bytes"] = machine.l2_bytes, machine.l3_bytes
    flags = cpu_fields().get("flags", "").split()
    if flags and not forced and "fma" not in flags:
        yield "this CPU has no multiply-add instruction (FMA): results are right, and slow; use a CPU with AVX2"


def threads(facts: Facts, asked: int | None) -> Iterator[str]:
    """How many threads a network takes, and where that number comes from. `asked` is the argument, or None."""
    from ..runtime import NO_QUOTA, allowed_cores, explained_threads, quota, usable_cores

    facts["cores"], facts["by_affinity"] = os.cpu_count(), allowed_cores()
    facts["by_cpu_quota"] = quota() if quota() < NO_QUOTA else None
    facts["threads"], facts["because"] = (asked, "--threads") if asked else explained_threads()
    usable = usable_cores()
    if facts["threads"] > usable:
        yield (
            f"{facts['threads']} threads ({facts['because']}) share {usable} usable cores and wait for each other; "
            f"set NANOINFER_NUM_THREADS={usable}, or allow more cores"
        )


def memory(facts: Facts) -> Iterator[str]:
    """Free memory, and what limits it."""
    from ..machine.memory import UNLIMITED, available_bytes, free_bytes, group_bytes

    known = {"free_bytes": free_bytes(), "left_by_control_groups_bytes": group_bytes()}
    facts |= {name: value if value < UNLIMITED else None for name, value in known.items()}
    facts["address_space_bytes"] = address_space()
    left = available_bytes() >> 20
    if left < ENOUGH:
        yield f"{left} MiB of memory are left; end other programs, or raise the memory limit of the container"


def address_space() -> int | None:
    """Bytes that this process may map (ulimit -v), None without a limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def cpu_fields() -> dict[str, str]:
    """What Linux says of the first core; nothing elsewhere."""
    try:
        first = CPUINFO.read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def distribution() -> str | None:
    """The name of a Linux distribution."""
    try:
        text = Path("/etc/os-release").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r'^PRETTY_NAME="?([^"\n]*)', text, re.M)
    return match and match[1]
