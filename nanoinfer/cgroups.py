"""The control groups that this process is in, whose limits are tighter than the machine's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

OWN, ROOT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def groups(controller: str) -> Iterator[tuple[Path, int]]:
    """(folder, version 1 or 2) of the process's groups of a controller ("cpu", "memory") and of all above them.

    None where the system has none; a folder need not exist.
    """
    for line in text(OWN).splitlines():  # hierarchy:controllers:/path; version 2 names no controllers
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        own = ROOT / (controller if controllers else "") / group[1:]
        for folder in (own, *own.parents):
            yield folder, 1 if controllers else 2


def text(path: Path) -> str:
    """What a file holds; "" if it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
