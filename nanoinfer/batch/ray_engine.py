"""A run on a Ray cluster: Ray Data carries batches of paths to a pool of actors, and rows come back in order.

Each actor has a Predictor with as many threads as Ray reserves cores for it. Ray restarts an actor that is lost and
gives its blocks to another; a row does not depend on who made it. Nothing but paths travels to an actor, and nothing
but results from it, so every machine must reach the images and have nanoinfer installed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ..errors import InputError, printable
from .items import Item
from .pipeline import Options
from .predictor import Predictor
from .readers import row_of
from .remote import is_remote
from .rows import About, Row

BATCHES_A_BLOCK = 4  # what an actor is given at a time, and does again if it is lost
PLACE_COLUMNS = ("path", "place", "image")  # Predictor reads the last one, which is as the one before, and drops it


class Cluster(NamedTuple):
    """address: a cluster's, as `ray.init` takes it; None starts one on this machine, which ends with the run.

    workers: actors; None is as many as the cluster has cores for.
    """

    address: str | None = None
    workers: int | None = None


def rows(
    items: Iterable[Item], about: About, arguments: dict[str, object], cluster: Cluster, options: Options,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Row]:  # fmt: skip
    """A row for each item; `arguments` are those of Predictor that make the network, and `options` are each worker's.

    All paths are listed first. Once `stopped` says so, no row comes any more, and what is under way is given up.

    Raises InputError where Ray is missing, the cluster cannot be reached or lacks the cores, and for images in
    archives, which Ray reads better itself.
    """
    listed = [*items]
    places = [_place(item) for item in listed]
    results = _computed([*filter(None, places)], about, arguments, cluster, options)
    try:
        for item, place in zip(listed, places, strict=True):
            row = Row(item.path, error=str(item.source)) if place is None else next(results)
            if stopped():
                return
            yield row
    finally:
        results.close()


def _place(item: Item) -> tuple[str, str] | None:
    """(name in results, what a worker opens); None if what was given cannot be read."""
    if isinstance(item.source, InputError):
        return None
    if isinstance(item.source, bytes):
        raise InputError(
            f"{printable(item.path)}: --engine ray takes no images in archives or tables; read them with Ray Data "
            "itself, as examples/ray_data.py does"
        )
    place = item.path if is_remote(item.path) else os.path.abspath(item.source)
    try:
        (item.path + place).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{printable(item.path)}: Ray takes names in UTF-8 only; rename the file, or leave out --engine ray"
        ) from None
    return item.path, place


def _computed(
    places: list[tuple[str, str]], about: About, arguments: dict[str, object], cluster: Cluster, options: Options
) -> Iterator[Row]:
    """The rows of places, by an actor pool."""
    if not places:
        return
    ray, started = _connected(cluster.address)
    try:
        workers = _workers(ray, cluster.workers, options.threads)
        for record in _records(ray, places, {**arguments, "task": about.task}, workers, options):
            if record["weights"] != about.weights:
                raise InputError("a worker has other weights than this machine; give all machines the same file")
            row = row_of(record, about)
            if row.error is not None:  # by the name that the user knows
                row = row._replace(error=row.error.replace(printable(record["place"]), printable(row.path), 1))
            yield row
    except ray.exceptions.RayError as error:
        raise InputError(f"Ray: {printable(_reason(error))}") from None
    finally:
        if started:
            ray.shutdown()


def _connected(address: str | None):
    """(the module ray, whether this call connected it)."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    if not address:  # as on Windows and macOS, a cluster of this machine alone answers on its loopback address alone
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
        import ray.data
    except ImportError:
        raise InputError("to run on Ray, run: pip install 'ray[data]'") from None
    for name in ("ray", "ray.data"):  # what goes well is said by the rows
        logging.getLogger(name).setLevel(logging.ERROR)
    if ray.is_initialized():
        return ray, False
    options = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        ray.init(address or "local", **options, **({} if address else {"include_dashboard": False}))
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{printable(address or 'Ray')}: no cluster ({printable(_reason(error))})") from None
    return ray, True


def _workers(ray, wanted: int | None, threads: int) -> int:
    """How many workers of `threads` cores each the cluster is asked for."""
    most = int(ray.cluster_resources().get("CPU", 0)) // threads
    if most < (wanted or 1):
        raise InputError(
            f"the cluster has cores for {most} workers of {threads} threads; give fewer --workers or --threads"
        )
    return wanted or most


def _records(
    ray, places: list[tuple[str, str]], arguments: dict[str, object], workers: int, options: Options
) -> Iterator[dict]:
    """Records of `sinks.record`'s columns, computed by Ray Data."""
    import pyarrow

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = options.ordered
    context.enable_progress_bars = False
    block = options.batch * BATCHES_A_BLOCK
    names, opened = zip(*places, strict=True)
    whole = pyarrow.table([names, opened, opened], PLACE_COLUMNS)
    tables = [whole.slice(first, block) for first in range(0, len(places), block)]
    results = ray.data.from_arrow(tables).map_batches(
        Predictor,
        fn_constructor_kwargs={
            **arguments,
            "threads": options.threads,
            "batch_size": options.batch,
            "column": PLACE_COLUMNS[-1],
        },
        batch_size=options.batch,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(tables))),
        num_cpus=options.threads,
    )
    for table in results.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from table.to_pylist()


def _reason(error: Exception) -> str:
    """The last line of an exception's text, where Ray says what happened."""
    return next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
