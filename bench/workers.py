"""Images per second of worker processes on this machine, from one to one for each core, and a model of many machines.

    python -m bench.workers                       # mobilenetv3_small_100
    python -m bench.workers --model mobilenetv2_140 --machines 100 --archive 1000000

Each worker is a process with a `nanoinfer.Predictor`, as Ray and Spark have them, and takes JPEG files from memory. All
begin together, once each has run a batch; the rate counts until the last is done. Ways take turns within a round, and
medians over rounds count; the best round is shown beside them, for machines that others use as well. The last lines are
a model and no measurement; they say what it assumes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from typing import NamedTuple

import nanoinfer
from bench.archive import jpegs


class Way(NamedTuple):
    """`workers` processes of `threads` each."""

    workers: int
    threads: int


class Measured(NamedTuple):
    """start: seconds until the first rows of a process. rate, best: images per second. cpu: CPU seconds of an image."""

    start: float
    rate: float
    best: float
    cpu: float


def ways(cores: int) -> list[Way]:
    """One worker to one for each core, of one thread or of as many as leave no core idle; last, too many threads."""
    found = [Way(workers, threads) for workers in range(1, cores + 1) for threads in {1, cores // workers}]
    return [*sorted(found), *([Way(cores, cores)] if cores > 1 else [])]


def work(channel, began: float, model: str, way: Way, batch: list[bytes], batches: int) -> None:
    """In a process of its own: say how long the start took, then do all batches whenever that is asked for."""
    predictor = nanoinfer.Predictor(model, "random", threads=way.threads, batch_size=len(batch))
    predictor(batch)
    channel.send(time.time() - began)
    while channel.recv():
        cpu = time.process_time()
        for _ in range(batches):
            predictor(batch)
        channel.send(time.process_time() - cpu)


class Pool:
    """The processes of a way, which wait until they are asked to run."""

    def __init__(self, arguments: argparse.Namespace, way: Way, contents: list[bytes]):
        context = multiprocessing.get_context("spawn")
        self.batches = max(1, arguments.images // (arguments.batch_size * way.workers))
        self.images = self.batches * arguments.batch_size * way.workers
        self.channels, self.processes = [], []
        for _ in range(way.workers):
            mine, theirs = context.Pipe()
            options = (theirs, time.time(), arguments.model, way, contents, self.batches)
            self.processes.append(context.Process(target=work, args=options, daemon=True))
            self.processes[-1].start()
            theirs.close()
            self.channels.append(mine)
        self.start = max(channel.recv() for channel in self.channels)

    def run(self) -> tuple[float, float]:
        """(images per second, CPU seconds an image)."""
        began = time.perf_counter()
        for channel in self.channels:
            channel.send(True)
        cpu = sum(channel.recv() for channel in self.channels)
        return self.images / (time.perf_counter() - began), cpu / self.images

    def end(self) -> None:
        for channel, process in zip(self.channels, self.processes, strict=True):
            channel.send(False)
            process.join()


def measured(arguments: argparse.Namespace, contents: list[bytes]) -> dict[Way, Measured]:
    """The medians of all ways. The processes of all are there throughout, and those of one way run at a time."""
    pools = {way: Pool(arguments, way, contents) for way in ways(arguments.cores)}
    runs = {way: [] for way in pools}
    for _ in range(arguments.rounds):
        for way, pool in pools.items():
            runs[way].append(pool.run())
    for pool in pools.values():
        pool.end()
    return {way: summary(pools[way].start, *zip(*runs[way], strict=True)) for way in pools}


def summary(start: float, rates: tuple[float, ...], cpu: tuple[float, ...]) -> Measured:
    return Measured(start, statistics.median(rates), max(rates), statistics.median(cpu))


def model_of_many(arguments: argparse.Namespace, best: Measured, weights: int, image: float) -> list[str]:
    """Lines that say how long an archive takes on many machines such as this one, by a model of what was measured."""
    machines, images = arguments.machines, arguments.archive
    seconds = best.start + images / (machines * best.rate)
    return [
        f"model of {machines} such machines and {images:,} images: start + images / (machines x rate)",
        f"  = {best.start:.1f} s + {images:,} / ({machines} x {best.rate:.0f}/s) = {seconds:.0f} s,",
        f"  if storage gives {machines * best.rate * image / 1e6:.0f} MB/s of images ({image / 1e3:.0f} kB each) and,",
        f"  at the start, {weights * machines / 1e9:.2f} GB of weights ({weights / 1e6:.0f} MB a machine);",
        "  it knows no queue, no slow machine, and no work of the engine that carries the batches",
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenetv3_small_100")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)), help="default: all of this process")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=256, help="of a round (default: 256)")
    parser.add_argument("--size", type=int, nargs=2, default=(500, 375), metavar=("W", "H"), help="default: 500 375")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--machines", type=int, default=100)
    parser.add_argument("--archive", type=int, default=1_000_000, metavar="IMAGES")
    arguments = parser.parse_args(argv)
    contents = jpegs(tuple(arguments.size), arguments.batch_size)
    found = measured(arguments, contents)
    alone = found[Way(1, 1)].rate
    width, height = arguments.size
    print(f"{arguments.model}, batch {arguments.batch_size}, JPEG of {width} x {height}, ", end="")
    print(f"{arguments.cores} cores, {arguments.rounds} rounds")
    print("workers  threads  images/s  of one    best  CPU ms/image  start s")
    for way, one in found.items():
        print(f"{way.workers:7}  {way.threads:7}  {one.rate:8.1f}  {one.rate / alone:5.2f}x  {one.best:6.1f}  ", end="")
        print(f"{1000 * one.cpu:12.2f}  {one.start:7.2f}")
    weights = sum(array.nbytes for array in nanoinfer.create_model(arguments.model, "random").tensors.values())
    best = found[Way(arguments.cores, 1)]
    print(*model_of_many(arguments, best, weights, sum(map(len, contents)) / len(contents)), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
