"""Latency and throughput of a network: calls one after another, or several streams of them side by side.

A stream is a thread that calls a replica of the model, again and again. Replicas share packed weights and have threads
of their own, so that streams wait for nothing but memory and the cores that they have.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from dataclasses import asdict, dataclass

import numpy as np

from .errors import InputError
from .model import Model


@dataclass
class Load:
    """What is asked of a model: `streams` side by side, for `duration` seconds or `iterations` calls of all together.

    Either may be None; what is reached first ends the run. The calls of the first `warmup` seconds do not count, and
    each stream makes at least one.
    """

    streams: int = 1
    duration: float | None = 5.0
    iterations: int | None = None
    warmup: float = 1.0


@dataclass
class Measurement:
    """Times of calls in milliseconds, from all streams, and images per second of all streams together."""

    model: str
    streams: int
    threads: int  # of all streams
    batch: int
    input_shape: tuple[int, ...]
    count: int  # calls
    seconds: float
    median: float
    mean: float
    p90: float
    p99: float
    minimum: float
    images_per_second: float

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        size = "x".join(map(str, self.input_shape))
        streams = f"{self.streams} stream{'s' * (self.streams > 1)}, {self.threads} thread{'s' * (self.threads > 1)}"
        lines = [
            f"{self.model}, {size}, {streams}",
            f"count    {self.count} calls in {self.seconds:.2f} s",
            *(f"{name:8} {getattr(self, name):.3f} ms" for name in ("median", "mean", "p90", "p99", "minimum")),
            f"images/s {self.images_per_second:.1f}",
        ]
        return "\n".join(lines)


def measure(model: Model, shape: tuple[int, ...], load: Load) -> Measurement:
    """Time calls of `model` for inputs (N, C, H, W) of one shape, as `load` says.

    The threads of the model are divided among the streams. Raises InputError for a shape that the network cannot take,
    and for a load without an end or with more streams than threads.
    """
    if load.duration is None and load.iterations is None:
        raise InputError("a benchmark needs an end; give seconds or calls")
    if not 1 <= load.streams <= model.threads:
        raise InputError(f"{load.streams} streams on {model.threads} threads; give each stream a thread")
    threads = model.threads // load.streams
    first = model if threads == model.threads else Model(model.pretrained, threads, exact=model.exact)
    x = np.random.default_rng(0).random(shape, np.float32)
    clock = _Clock(load)
    replicas = [first, *(first.replica() for _ in range(load.streams - 1))]
    for replica in replicas:
        replica.program(shape)
    streams = [threading.Thread(target=clock.run, args=(replica, x)) for replica in replicas]
    for stream in streams:
        stream.start()
    try:
        for stream in streams:
            stream.join()
    except BaseException:  # Ctrl-C
        clock.stopped = True
        raise
    if clock.failure is not None:
        raise clock.failure
    return clock.result(model, threads * load.streams, shape)


class _Clock:
    """When streams warm up, when calls count and when they end; and the times of those that count."""

    def __init__(self, load: Load):
        self.load, self.calls, self.stopped, self.failure = load, [], False, None
        self._left = threading.Semaphore(load.iterations) if load.iterations else None
        # All streams begin to count together, so that none runs alone while its calls count.
        self._start = threading.Barrier(load.streams)

    def run(self, model: Model, x: np.ndarray) -> None:
        """One stream."""
        try:
            end = time.perf_counter() + self.load.warmup
            model(x)
            while time.perf_counter() < end and not self.stopped:
                model(x)
            self._start.wait()
            end = time.perf_counter() + (float("inf") if self.load.duration is None else self.load.duration)
            while not self.stopped and (self._left is None or self._left.acquire(blocking=False)):
                start = time.perf_counter()
                model(x)
                done = time.perf_counter()
                self.calls.append((start, done))
                if done >= end:
                    break
        except BaseException as error:
            self.stopped, self.failure = True, self.failure or error
            self._start.abort()

    def result(self, model: Model, threads: int, shape: tuple[int, ...]) -> Measurement:
        times = [1000 * (done - start) for start, done in self.calls]
        seconds = max(done for _, done in self.calls) - min(start for start, _ in self.calls)
        p90, p99 = np.percentile(times, (90, 99))
        return Measurement(
            model.name, self.load.streams, threads, shape[0], shape, len(times), seconds, statistics.median(times),
            statistics.fmean(times), float(p90), float(p99), min(times), shape[0] * len(times) / seconds,
        )  # fmt: skip
