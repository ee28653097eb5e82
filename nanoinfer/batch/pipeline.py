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
    good = 0
    for ready in _prepared(items, job.model, options, cores, stopped):
        batch.append(ready)
        good += ready.x is not None
        if good == options.batch or not good:
            yield from _results(batch, job, cores)
            batch, good = [], 0
    yield from _results(batch, job, cores)


def _results(batch: list[_Ready], job: Job, cores: Cores) -> Iterator[Row]:
    """The rows of a batch in its order; the network sees those that are images."""
    good = [ready for ready in batch if ready.x is not None]
    results = iter(())
    if good:
        with cores.taken():
            x = good[0].x if len(good) == 1 else np.concatenate([ready.x for ready in good])
            results = iter(job.results([ready.path for ready in good], x))
    for ready in batch:
        yield next(results) if ready.x is not None else Row(ready.path, error=ready.error)


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
    if not waiting[0].done():
        futures.wait([waiting[0]], POLL_SECONDS)
    return waiting.popleft() if waiting[0].done() else None


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
