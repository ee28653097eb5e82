"""Everything at once for a long time, with faults injected at random: every logit keeps its bits.

    python -m bench.soak MINUTES [--seed N] [--only SCENARIO ...]

What is right is computed first: the logits of single images, on one thread, in a quiet process. Then scenarios of the
table below come in random order, each with random networks, sizes, batches and threads, and every image's logits are
compared with the right ones bit by bit. A scenario injects faults: exceptions from signal handlers, forks, busy
neighbours, damaged caches, killed compilers, changed checkpoints. Prints the counts of each: runs, calls, faults,
mismatches; and the largest memory of this process. Ends with exit code 1 if anything differs, hangs or raises what it
should not. It needs Linux.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import nanoinfer
from nanoinfer.cli.network import positive

HANG = 300  # seconds that a scenario may take
IMAGES = 6  # of each network and size
# Networks and image sizes, small and odd; weights are random:SEED.
NETWORKS = {
    "digits": (32,),
    "mobilenetv3_small_100": (64, 97, 128),
    "mobilenetv2_140": (64, 75),
    "resnext50_32x4d": (64, 96),
    "vit_b_32": (224,),
}


class Subject(NamedTuple):
    """A network at one size, its images (IMAGES, C, size, size) and their right logits (IMAGES, classes)."""

    name: str
    size: int
    images: np.ndarray
    logits: np.ndarray


class World:
    """What scenarios share: subjects, the random numbers, models by threads, a folder, and the counts."""

    def __init__(self, seed: int, folder: Path):
        self.seed, self.random, self.folder = seed, random.Random(seed), folder
        self.counts: Counter[str] = Counter()
        self._models: dict[tuple[str, int], nanoinfer.Model] = {}
        self.subjects = [self._subject(name, size) for name, sizes in NETWORKS.items() for size in sizes]

    def model(self, name: str, threads: int) -> nanoinfer.Model:
        key = name, threads
        if key not in self._models:
            self._models[key] = self.fresh_model(name, threads)
        return self._models[key]

    def fresh_model(self, name: str, threads: int) -> nanoinfer.Model:
        return nanoinfer.create_model(name, None if name == "digits" else f"random:{self.seed}", threads=threads)

    def _subject(self, name: str, size: int) -> Subject:
        generator, model = np.random.default_rng([self.seed, size]), self.model(name, 1)
        images = generator.standard_normal((IMAGES, model.channels, size, size), np.float32)
        return Subject(name, size, images, np.concatenate([model(image[None]) for image in images]))

    def any_subject(self, *names: str) -> Subject:
        return self.random.choice([one for one in self.subjects if not names or one.name in names])

    def any_batch(self, subject: Subject) -> np.ndarray:
        """Numbers of images, with repetitions."""
        return np.array(self.random.choices(range(IMAGES), k=self.random.randint(1, 9)))

    def check(self, subject: Subject, batch: np.ndarray, logits: np.ndarray) -> None:
        """Count a call, and a mismatch for every image whose bits are not the right ones."""
        self.counts["calls"] += 1
        right = subject.logits[batch]
        same = logits.shape == right.shape and logits.dtype == right.dtype
        wrong = (logits.view(np.uint32) != right.view(np.uint32)).any(axis=1).sum() if same else len(batch)
        self.counts["mismatches"] += int(wrong)

    def call(self, subject: Subject, model: nanoinfer.Model) -> None:
        batch = self.any_batch(subject)
        self.check(subject, batch, model(subject.images[batch]))


def run(minutes: float, world: World, scenarios: dict[str, Callable[[World], None]]) -> dict[str, Counter]:
    """{scenario: its counts}: scenarios in random order until the time is up, each at least once."""
    results = {name: Counter() for name in scenarios}
    end, pending = time.monotonic() + 60 * minutes, list(scenarios)
    world.random.shuffle(pending)
    while pending or time.monotonic() < end:
        name = pending.pop() if pending else world.random.choice(list(scenarios))
        world.counts = Counter(runs=1)
        faulthandler.dump_traceback_later(HANG, exit=True)
        try:
            scenarios[name](world)
        except Exception:
            world.counts["errors"] += 1
            print(f"{name}:\n{traceback.format_exc()}", file=sys.stderr)
        faulthandler.cancel_dump_traceback_later()
        results[name].update(world.counts)
    return results


def main() -> int:
    from .soak_scenarios import SCENARIOS

    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__.splitlines()[0])
    parser.add_argument("minutes", type=float)
    parser.add_argument("--seed", type=positive, default=1)
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), metavar="SCENARIO")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world, start = World(options.seed, Path(folder)), time.monotonic()
        results = run(options.minutes, world, {name: SCENARIOS[name] for name in options.only})
    columns = ("runs", "calls", "faults", "mismatches", "errors")
    total = sum(results.values(), Counter())
    print(f"{'scenario':22}" + "".join(f"{column:>12}" for column in columns))
    for name, counts in (*results.items(), ("all", total)):
        print(f"{name:22}" + "".join(f"{counts[column]:12,}" for column in columns))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lanes = nanoinfer.machine.host().lanes
    minutes = (time.monotonic() - start) / 60
    print(f"seed {options.seed}, {minutes:.1f} minutes, {lanes} lanes, most memory of this process {peak:.0f} MB")
    return int(bool(total["mismatches"] or total["errors"]))


if __name__ == "__main__":
    sys.exit(main())
