"""A network beside processes that do not yield: what a call takes with one thread, with a thread for each core, and
with other engines.

    python -m bench.neighbours [--model M] [--cases C ...] [--peers P ...] [--isa avx2] [--rounds N] [--seconds S]

Each engine runs in a process of its own; a round is one turn of each, and the mean of its calls counts, since
neighbours take a core for a few milliseconds every so often. Ratios to one thread are taken within a round, and their
median is printed. Outputs are compared with torch's, as in bench/models.py. It needs Linux.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from nanoinfer.cli.network import positive
from nanoinfer.runtime import default_threads

from .engines import ISAS, NOT_HELD
from .models import BEST_OF, MODELS, Setting, Worker, prepare

TOLERANCE = 1e-3
BUSY = [sys.executable, "-c", "while True: pass"]
LOST = (
    "import time\nwhile True:\n  end = time.monotonic() + 0.5\n  while time.monotonic() < end: pass\n  time.sleep(0.5)"
)
CORE = str(max(os.sched_getaffinity(0)))
# Case -> the commands of its neighbours. The last two need a right to higher priorities.
CASES: dict[str, list[list[str]]] = {
    "quiet": [],
    "one": [BUSY],
    "two": [BUSY, BUSY],
    "one core allowed": [],
    "pinned": [["nice", "-n", "-15", "taskset", "-c", CORE, *BUSY]],
    "core lost": [["chrt", "-f", "10", "taskset", "-c", CORE, sys.executable, "-c", LOST]],
}


@contextmanager
def beside(commands: list[list[str]]) -> Iterator[None]:
    neighbours = [subprocess.Popen(command) for command in commands]
    try:
        yield
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()


def allow_one_core(process: int) -> None:
    """All threads of a process stay on one core from now on, whatever they were made for."""
    for task in os.listdir(f"/proc/{process}/task"):
        os.sched_setaffinity(int(task), {int(CORE)})


def measure(case: str, settings: list[tuple[str, Setting]], options: argparse.Namespace) -> list[list[float]]:
    """For each engine the mean milliseconds of a call, by rounds."""
    means: list[list[float]] = [[] for _ in settings]
    workers = [Worker(engine, setting, None, ISAS[options.isa]) for engine, setting in settings]
    if case == "one core allowed":
        for worker in workers:
            allow_one_core(worker.process.pid)
    for _ in range(options.rounds):
        for worker, own in zip(workers, means, strict=True):
            with beside(CASES[case]):
                worker.turn(options.seconds)
            own.append(1e3 * statistics.fmean(worker.rounds[-1]))
    expected = np.load(settings[0][1].folder / "expected.npy")
    for worker in workers:
        worker.stop()
        error = float(np.abs(worker.logits - expected).max() / np.abs(expected).max())
        if not error <= TOLERANCE:
            raise SystemExit(f"bench.neighbours: {worker.engine} has an error of {error:.1e}")
    return means


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.neighbours", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mobilenetv3_small_100", choices=MODELS)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES, metavar="CASE")
    parser.add_argument("--peers", nargs="*", default=["onnxruntime"], choices=BEST_OF)
    parser.add_argument("--isa", choices=ISAS, default="native", help="as in bench.models")
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--seconds", type=float, default=1.5, help="length of one turn")
    options = parser.parse_args()
    if left_out := NOT_HELD[options.isa].intersection(options.peers):
        parser.error(f"{', '.join(left_out)}: no switch for the instruction set; choose others with --peers")
    threads = default_threads()
    print(f"{options.model}, batch 1, {threads} cores; mean milliseconds a call, and times as long as one thread takes")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        np.save(folder / "expected.npy", prepare(options.model, folder, [1], onnx=True))
        names = [(engine, count) for engine in ("nanoinfer", *options.peers) for count in (1, threads)]
        settings = [(engine, Setting(options.model, folder, 1, count)) for engine, count in names]
        for case in options.cases:
            means = measure(case, settings, options)
            for (engine, count), own in zip(names, means, strict=True):
                ratio = statistics.median(mine / one for mine, one in zip(own, means[0], strict=True))
                print(f"{case:18} {engine:12} {count} threads {statistics.median(own):9.3f} {ratio:6.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
