"""Measure the constants of the tuning table on this machine, and print the table that they make.

    python -m bench.tune [--models M ...] [--threads T ...] [--batch-sizes N ...] [--fields F ...] [--rounds N]

One field after another, every value in CANDIDATES is tried on every network, number of threads and batch size, in one
process: a round is one turn of each value, in an order that changes, and ratios are taken within a round, so that a
machine that is slower for a while is so for all. The value so far runs twice, so that its second ratio shows the noise.
A value is taken if the geometric mean of its median ratios exceeds GAIN and twice that noise, and later fields are
tried with it. Bits do not depend on a tuning, and a value with other bits ends the run with exit code 1. What comes out
belongs into nanoinfer/machine/tuning.py.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from nanoinfer import Model, create_model
from nanoinfer.architectures import MODELS as ARCHITECTURES
from nanoinfer.cli.network import positive
from nanoinfer.machine import Machine, Tuning, host

from .engines import turn
from .models import MODELS

GAIN = 1.005  # less is not worth a difference between machines
SECONDS = 0.06  # of one turn

# Field -> values to try beside the one that the machine's table has. Register tiles that do not fit the registers are
# slower rather than wrong.
CANDIDATES: dict[str, tuple] = {
    "depthwise_mr": (7, 8, 14),
    "grouped_mr": (4, 7, 8, 14),
    "attention_tile": ((4, 2), (6, 2), (3, 4), (6, 4)),
    "prefetch_step": (16, 24, 32, 48, 64),
    "slowest_prefetch_step": (4, 8, 16, 32),
    "prefetch_output_above": (0.125, 0.25, 0.5, 1.0),
    "prefetch_rows_above": (0.25, 0.5, 1.0),
    "block_bytes": (128 << 10, 256 << 10, 512 << 10, 1 << 20),
    "line_buffer_share": (0.1, 0.2, 0.3, 0.5, 0.75),
    "min_intermediate_bytes": (64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20),
    "weight_reread_cost": (0.1, 0.22, 0.4),
    "strassen_workspace_bytes": (640 << 10, 1280 << 10, 2560 << 10),
    "strassen_unit": (6, 7, 12, 14),
    "even_tiles": (0.7, 0.8, 0.9, 1.0),
    "fewest_sums": (1, 4, 8, 12),
    "tiles_a_thread": (4, 8, 16),
}


@dataclass
class Case:
    """One network with its input."""

    model: Model
    x: np.ndarray

    def __str__(self) -> str:
        return f"{self.model.name}, batch {len(self.x)}, threads {self.model.threads}"


def cases(names: list[str], threads: list[int], batches: list[int]) -> Iterator[Case]:
    for name in names:
        crop = ARCHITECTURES[name].preprocessing.crop
        for count in threads:
            model = create_model(name, "random", threads=count)
            for batch in batches:
                yield Case(model, np.random.default_rng(0).standard_normal((batch, 3, *crop), np.float32))


def ratios(case: Case, tunings: list[Tuning], machine: Machine, rounds: int) -> list[float]:
    """How many times as long the first tuning takes as each: the median of the rounds. SystemExit for other bits."""
    models = [case.model.planned_for(replace(machine, tuning=tuning)) for tuning in tunings]
    expected, times = models[0](case.x), [[] for _ in models]
    for model in models[1:]:
        if not np.array_equal(model(case.x), expected):
            raise SystemExit(f"bench.tune: {case}: a tuning changes bits; report this")
    for number in range(rounds):
        for at in np.roll(np.arange(len(models)), number):
            times[at].append(statistics.median(turn(models[at], case.x, SECONDS)))
    return [statistics.median(a / b for a, b in zip(times[0], own, strict=True)) for own in times]


def tune(found: list[Case], fields: list[str], machine: Machine, rounds: int) -> Tuning:
    """The machine's tuning with what is faster here, field by field."""
    best = machine.tuning
    for field in fields:
        known = getattr(best, field)
        values = [known, known, *(value for value in CANDIDATES[field] if value != known)]
        tunings = [best._replace(**{field: value}) for value in values]
        by_case = [ratios(case, tunings, machine, rounds) for case in found]
        means = [statistics.geometric_mean(column) for column in zip(*by_case, strict=True)]
        for value, mean, *column in zip(values, means, *by_case, strict=True):
            cells = " ".join(f"{ratio:6.3f}" for ratio in column)
            print(f"{field:26} {value!s:>10} {mean:7.3f}   {cells}", flush=True)
        fastest, noise = int(np.argmax(means)), abs(means[1] - 1)
        if means[fastest] >= max(GAIN, 1 + 2 * noise):
            best = tunings[fastest]
    return best


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.tune", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS, choices=ARCHITECTURES, metavar="MODEL")
    parser.add_argument("--threads", nargs="+", type=positive, default=[1, 2], metavar="T")
    parser.add_argument("--batch-sizes", nargs="+", type=positive, default=[1], metavar="N")
    parser.add_argument("--fields", nargs="+", default=list(CANDIDATES), choices=CANDIDATES, metavar="FIELD")
    parser.add_argument("--rounds", type=positive, default=9)
    options = parser.parse_args(argv)
    machine, start = host(), time.perf_counter()
    found = list(cases(options.models, options.threads, options.batch_sizes))
    print(
        f"{machine.lanes} lanes, {machine.registers} registers, L2 {machine.l2_bytes >> 10} KiB; how many times as "
        f"fast as the value so far: mean, then\n" + "\n".join(f"  {case}" for case in found)
    )
    best = tune(found, options.fields, machine, options.rounds)
    changed = {name: value for name, value in best._asdict().items() if value != getattr(machine.tuning, name)}
    print(f"\nafter {time.perf_counter() - start:.0f} s, faster here than the table of this kind of machine:")
    for name, value in changed.items():
        print(f"    {name}={value!r},")
    if not changed:
        print("    nothing")
    return 0


if __name__ == "__main__":
    sys.exit(main())
