"""How much memory this process can still get."""

from __future__ import annotations

from pathlib import Path

from ..cgroups import groups, text

MEMINFO = Path("/proc/meminfo")
UNLIMITED = 1 << 62


def available_bytes() -> int:
    """What the system can give without swapping, and the memory limits of all control groups above leave; UNLIMITED
    where the system does not say."""
    return min(free_bytes(), group_bytes())


def free_bytes() -> int:
    """What the system can give without swapping; UNLIMITED where it does not say."""
    fields = dict(line.split(":", 1) for line in text(MEMINFO).splitlines() if ":" in line)
    amount = fields.get("MemAvailable", "").split()
    return 1024 * int(amount[0]) if amount else UNLIMITED


def group_bytes() -> int:
    """What the memory limits of control groups leave; UNLIMITED where there are none.

    Cached pages of files count as free, since the kernel drops them first.
    """
    least = UNLIMITED
    for folder, version in groups("memory"):
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
        limit, used = (text(folder / name).strip() for name in names)
        if limit.isdecimal() and used.isdecimal():
            counts = dict(line.split() for line in text(folder / "memory.stat").splitlines())
            least = min(least, max(0, int(limit) - int(used) + int(counts.get("inactive_file", 0))))
    return least
