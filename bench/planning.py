"""CPU time of planning: the first program of a network, and one for another input once kernels and weights are ready.

    python -m bench.planning [--models M ...] [--threads N] [--rounds R]

A first run makes sure that all kernels are in the cache. Then, in a new model, `first` has packed weights to make, and
`warm` is a program for twice as many images: passes, kernels and packed weights are there, so that it is planning
alone. Medians over rounds, in milliseconds of this process's CPU time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import nanoinfer
from nanoinfer.architectures import MODELS as ARCHITECTURES
from nanoinfer.cli.network import positive

from .models import MODELS


def cpu_milliseconds(call) -> float:
    start = time.process_time()
    call()
    return 1000 * (time.process_time() - start)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=ARCHITECTURES, metavar="MODEL")
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--rounds", type=positive, default=5)
    arguments = parser.parse_args(argv)
    print(f"{'CPU ms':24} {'first':>8} {'warm':>8}")
    for name in arguments.models:
        first, warm = [], []
        for _ in range(arguments.rounds + 1):
            model = nanoinfer.create_model(name, "random", threads=arguments.threads)
            size = model.preprocessing.crop
            first.append(cpu_milliseconds(lambda model=model, size=size: model.program((1, 3, *size))))
            warm.append(cpu_milliseconds(lambda model=model, size=size: model.program((2, 3, *size))))
        print(f"{name:24} {statistics.median(first[1:]):8.1f} {statistics.median(warm[1:]):8.1f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
