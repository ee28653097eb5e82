"""How much memory this process can still get."""

from __future__ import annotations

from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
UNLIMITED = 1 << 62


def available_bytes() -> int:
    """What the system can give without swapping, and the memory limits of all control groups above leave; UNLIMITED
    where the system does not say."""
    return min(_of_system(), _of_cgroups())


def _of_system() -> int:
    fields = dict(line.split(":", 1) for line in _text(PROC / "meminfo").splitlines() if ":" in line)
    amount = fields.get("MemAvailable", "").split()
    return 1024 * int(amount[0]) if amount else UNLIMITED


def _of_cgroups() -> int:
    """Cached pages of files count as free, since the kernel drops them first."""
    least = UNLIMITED
    for line in _text(PROC / "self/cgroup").splitlines():  # hierarchy:controllers:/path; version 2 names no controllers
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        own = CGROUPS / ("memory" if controllers else "") / group[1:]
        for place in (own, *own.parents):
            limit, used = (_text(place / name).strip() for name in names)
            if limit.isdecimal() and used.isdecimal():
                cached = dict(line.split() for line in _text(place / "memory.stat").splitlines()).get(
                    "inactive_file", 0
                )
                least = min(least, max(0, int(limit) - int(used) + int(cached)))
    return least


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
