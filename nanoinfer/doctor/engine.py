"""The engine: its cache of kernels, executable memory, what the machine can do, and a self-test."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from .checkup import Facts, explain

SELF_TEST = ("digits", "mobilenetv3_small_100", "mobilenetv2_article")  # small, and most kinds of kernels between them


def kernel_cache(facts: Facts) -> Iterator[str]:
    """What the wheel holds for this CPU; the cache folder and its state, whose warnings say why it is not used."""
    from ..kernels.jit import cache, levels, shipped

    held = shipped.of_this_cpu()
    facts["level"], facts["kernels_of_the_wheel"] = levels.level(), len(held.index) if held else 0
    try:
        base = cache.base()
    except OSError:  # no home; the warning says it
        base = None
    used = cache.folder()
    facts["folder"] = base and str(base)
    facts["exists"] = bool(base and base.is_dir())
    facts["trusted"] = used is not None
    facts["writable"] = used is not None and _writable(used)
    facts["files"], facts["size_bytes"] = _count(used)
    others = [path for path in _folders(base) if used is None or path.name != used.name]
    facts["other_targets"] = len(others)
    facts["size_of_those_bytes"] = sum(_count(path)[1] for path in others)
    yield from ()


def _writable(path: Path) -> bool:
    """Whether files can be made in a folder, or the folder itself be made."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return os.access(path, os.W_OK)


def _folders(base: Path | None) -> list[Path]:
    try:
        return [path for path in base.iterdir() if path.is_dir()] if base else []
    except OSError:
        return []


def _count(folder: Path | None) -> tuple[int, int]:
    """(number, bytes) of the files in a folder of the cache."""
    try:
        sizes = [entry.stat().st_size for entry in os.scandir(folder)] if folder else []
    except OSError:
        sizes = []
    return len(sizes), sum(sizes)


def executable_memory(facts: Facts) -> Iterator[str]:
    """How compiled code becomes executable here, and whether anything can be compiled."""
    from ..kernels.jit import elf

    if sys.platform == "linux":
        refusals = elf.refusals()
        facts |= {way: refused or "yes" for way, refused in refusals.items()}
        if all(refusals.values()):
            yield str(elf.Refused(", ".join(f"{way}: {refused}" for way, refused in refusals.items())))
    facts["compiler"] = compiler_problem() or "ready"


def compiler_problem() -> str:
    """Why nothing can be compiled; "" if it can."""
    try:
        import numba  # noqa: F401
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed"
    except PermissionError:
        return "refused by this system, as by MemoryDenyWriteExecute of systemd; kernels in the cache run"
    except Exception as error:
        return explain("numba", error)
    return ""


def speed(facts: Facts, threads: int | None) -> Iterator[str]:
    """Peak multiply-adds and bandwidths, measured on one thread and on as many as a network takes."""
    from ..machine.roofline import measure_at
    from ..runtime import default_threads

    counts = sorted({1, threads or default_threads()})
    rates = measure_at(counts)
    facts["threads"] = counts
    names = {"gflops": "gflop_per_s", **{level: f"{level}_gb_per_s" for level in ("l2_read", "l3_read", "memory_read")}}
    facts |= {name: [round(rate, 1) for rate in rates[key]] for key, name in names.items()}
    yield from ()


def self_test(facts: Facts, threads: int | None) -> Iterator[str]:
    """Networks against their stored fingerprints, and where their kernels came from."""
    from ..kernels.jit import library
    from .fingerprints import expected, fingerprint

    facts["networks"] = results = {}
    for name in SELF_TEST:
        found = fingerprint(name, threads)
        results[name] = "right" if found == expected()[name] else f"{found} instead of {expected()[name]}"
        if found != expected()[name]:
            yield (
                f"self-test: {name} computes other bits than it should; run 'pip install --force-reinstall nanoinfer', "
                "remove the cache folder, and report it with all of this text if that does not help"
            )
    facts["kernels_from"] = dict(Counter(library.origins().values()))
