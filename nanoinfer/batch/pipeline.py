"""Items to rows: threads read, decode and resize images ahead of the network, which takes them in batches.

Decoding and the network want the same cores. While the network runs, its threads have them for themselves, since a
thread of a team that is kept waiting keeps all others waiting; between batches all cores decode. So on any number of
cores a batch takes the time of decoding it and that of the network, one after the other, and neither slows the other.
Threads that wait for the network of the machine or its disk are not held up.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import NamedTuple

import numpy as np

from ..errors import InputError, printable
from .items import Item
from .rows import Job, Row

HELD_BYTES = 64 << 20  # of images that wait to be decoded
READERS = 4  # threads for each core, most of which wait for files to arrive or for their turn
POLL_SECONDS = 0.2  # how long a request to stop may go unseen


class Options(NamedTuple):
    """batch: images of a call of the network. threads: those of the network, and as many decode between its calls.

    ordered: rows come in the order of items, not as they are ready.
    """

    batch: int = 32
    threads: int = 1
    ordered: bool = True


class Cores:
    """Cores that decoding threads share with the network, which takes its own away from them while it runs."""

    def __init__(self, count: int):
        self._count, self._free, self._changed = count, count, threading.Condition()

    def __enter__(self):
        with self._changed:
            while self._free <= 0:
                self._changed.wait()
            self._free -= 1

    def __exit__(self, *_):
        self._give(1)

    def _give(self, cores: int) -> None:
        with self._changed:
            self._free += cores
            self._changed.notify(max(cores, 0))

    @contextmanager
    def taken(self) -> Iterator[None]:
        """All cores are the network's. Images that are being decoded are finished meanwhile, and no others begun."""
        self._give(-self._count)
        try:
            yield
        finally:
            self._give(self._count)


class _Ready(NamedTuple):
    """An item that has become the network's input, float32 (1, C, H, W), or else an error."""

    path: str
    x: np.ndarray | None
    error: str | None = None


def rows(
    items: Iterable[Item], job: Job, options: Options, stopped: Callable[[], bool] = lambda: False
) -> Iterator[Row]:
    """A row for each item, read as they are needed; bounded memory, whatever the number of items.

    Once `stopped` says so, the rows of the batch in hand still come, and no others.
    """
    cores = Cores(options.threads)
    batch: list[_Ready] = []
    inputs = _Inputs(options.batch)
    for ready in _prepared(items, job.model, options, cores, stopped):
        inputs.add(ready)
        batch.append(ready._replace(x=None))
        if inputs.count in (0, options.batch):
            yield from _results(batch, inputs, job, cores)
            batch = []
    yield from _results(batch, inputs, job, cores)


class _Inputs:
    """The network's input, filled image by image while others are decoded. Its memory serves every batch."""

    def __init__(self, batch: int):
        self._batch, self._x, self.count, self.paths = batch, None, 0, []

    def add(self, ready: _Ready) -> None:
        if ready.x is None:
            return
        if self._x is None:
            self._x = np.empty((self._batch, *ready.x.shape[1:]), np.float32)
        self._x[self.count] = ready.x[0]
        self.count += 1
        self.paths.append(ready.path)

    def take(self) -> tuple[list[str], np.ndarray]:
        """(paths, float32 (N, C, H, W)) of what was added; the next batch begins."""
        taken = self.paths, self._x[: self.count]
        self.count, self.paths = 0, []
        return taken


def _results(batch: list[_Ready], inputs: _Inputs, job: Job, cores: Cores) -> Iterator[Row]:
    """The rows of a batch in its order; the network sees those that are images."""
    results = iter(())
    if inputs.count:
        paths, x = inputs.take()
        with cores.taken():
            answers = job.answers(x)
        results = iter(job.rows(paths, *answers))
    for ready in batch:
        yield next(results) if ready.error is None else Row(ready.path, error=ready.error)


def _prepared(items: Iterable[Item], model, options: Options, cores: Cores, stopped) -> Iterator[_Ready]:
    """Items made ready by a pool of threads that is a batch ahead."""
    most = options.batch + READERS * options.threads
    pool = futures.ThreadPoolExecutor(READERS * options.threads, "nanoinfer-decode")
    waiting: deque[futures.Future] = deque()
    done: SimpleQueue[futures.Future] = SimpleQueue()  # in the order in which they end
    items, held, running = iter(items), 0, 0
    sizes: dict[futures.Future, int] = {}
    try:
        while not stopped():
            while running < most and held < HELD_BYTES and items is not None:
                item = next(items, None)
                if item is None:
                    items = None
                    break
                future = pool.submit(_prepare, item, model, cores)
                sizes[future] = item.held_bytes
                held += item.held_bytes
                running += 1
                waiting.append(future) if options.ordered else future.add_done_callback(done.put)
            if not running:
                return
            future = _first(waiting) if options.ordered else _next(done)
            if future is not None:
                running -= 1
                held -= sizes.pop(future)
                yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _first(waiting: deque[futures.Future]) -> futures.Future | None:
    """The first of futures if it ends soon."""
    try:
        waiting[0].result(POLL_SECONDS)
    except futures.TimeoutError:  # `_prepare` raises nothing
        return None
    return waiting.popleft()


def _next(done: SimpleQueue) -> futures.Future | None:
    try:
        return done.get(timeout=POLL_SECONDS)
    except Empty:
        return None


def _prepare(item: Item, model, cores: Cores) -> _Ready:
    """In a thread of the pool: read, decode, resize, crop and normalise one image."""
    try:
        source = item.open()
        with cores:
            return _Ready(item.path, model.preprocess([source]))
    except InputError as error:
        return _Ready(item.path, None, str(error))
    except MemoryError:
        return _Ready(item.path, None, f"{printable(item.path)}: not enough memory; scale the image down first")
    except Exception as error:  # a decoder or file system that raises what nobody expects ends one image, not the run
        return _Ready(item.path, None, f"{printable(item.path)}: cannot be read ({printable(repr(error))})")
