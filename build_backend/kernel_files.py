"""Compile the kernels that a wheel holds, one file for each level of CPU.

    python build_backend/kernel_files.py FOLDER [--levels x86-64-v4 ...] [--processes 2]

The nanoinfer that is imported is the one whose kernels are compiled: those of all listed networks at any input size.
It needs Numba; any Linux machine compiles for all levels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from nanoinfer.kernels.jit import compiler, library, shipped
from nanoinfer.kernels.jit.levels import LEVELS

from nanoinfer.architectures import MODELS
from nanoinfer.machine import Machine
from nanoinfer.machine.tuning import TUNINGS
from nanoinfer.plan.closed_set import closed_set

CACHES = 2 << 20, 32 << 20  # of L2 and L3: no kernel depends on them


def kernels(level: str) -> dict[str, object]:
    """{kernel name: spec} of all that the listed networks ask for on the machines of a level."""
    networks = [(row.graph(), (1, 3, *row.preprocessing.crop)) for row in MODELS.values()]
    found = {}
    for vectors in LEVELS[level].vectors:
        found |= closed_set(networks, Machine(*vectors, *CACHES, TUNINGS[vectors]))
    return found


def object_code(job: tuple[str, object]) -> bytes:
    """The object code of a (level, spec)."""
    level, spec = job
    with compiler.compile_settings():
        _, code = library.compiled_for(LEVELS[level].target, spec)
    return code


def write(folder: Path, specs: Mapping[str, Mapping[str, object]], processes: int = 2) -> list[Path]:
    """One file for each level of {level: {kernel name: spec}}."""
    jobs = [(level, name) for level in specs for name in specs[level]]
    with ProcessPoolExecutor(processes) as pool:
        codes = pool.map(object_code, [(level, specs[level][name]) for level, name in jobs], chunksize=8)
        compiled = dict(zip(jobs, codes, strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for level in specs:
        paths.append(folder / f"{level}{shipped.SUFFIX}")
        paths[-1].write_bytes(shipped.packed({name: compiled[level, name] for name in specs[level]}))
    return paths


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="compile the kernels that a wheel holds")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--levels", nargs="*", choices=LEVELS, default=list(LEVELS))
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    specs = {level: kernels(level) for level in options.levels}
    for path in write(options.folder, specs, options.processes):
        print(f"{path.name}: {len(specs[path.name.removesuffix(shipped.SUFFIX)])} kernels, {path.stat().st_size} bytes")


if __name__ == "__main__":
    sys.exit(main())
