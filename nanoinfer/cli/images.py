"""The commands predict and embed: images from any source, and rows printed or written to a file."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, printable
from . import INTERRUPTED, fail
from .interrupts import Finishing
from .network import model_arguments, model_of

if TYPE_CHECKING:
    from ..batch.items import Item
    from ..batch.rows import Job, Row

DEFAULT_MODEL = "digits"  # the one network whose weights and sample images ship with the package
PROGRESS_ABOVE = 10  # images; fewer are done before a progress bar is of use
BATCH = 32
PRINTED = {"predict": ("table", "json", "jsonl", "csv"), "embed": ("table", "json", "jsonl", "csv", "npy")}
WRITTEN = {
    "predict": ("json", "jsonl", "csv", "parquet", "arrow"),
    "embed": ("json", "jsonl", "csv", "npy", "parquet", "arrow"),
}
SUFFIXES = {"ndjson": "jsonl", "feather": "arrow"}  # others than the name of their format


def predict(arguments: argparse.Namespace) -> int:
    """Classify each image; an unreadable image is reported, the others still count."""
    from ..batch.rows import Job

    places, topk, name = arguments.images, arguments.topk or 5, arguments.model or DEFAULT_MODEL
    if not places and name != DEFAULT_MODEL:
        raise InputError(f"no image given: nanoinfer predict photo.jpg -m {name}")
    if not places:
        places, topk = _samples(), arguments.topk or 1
    form = format_of("predict", arguments.format, arguments.output)
    _check_engine(arguments, form)
    model = _model(arguments, name)
    if not model.labels:
        raise InputError(f"{name} has no head with these weights, and so no classes; run: nanoinfer embed")
    run = Run(Job(model, topk), places, arguments)
    if arguments.output is not None:
        return run.write(form)
    if form == "jsonl":
        return run.print_lines()
    from .predictions import PRINTERS, Prediction

    # These show the time of each image, so each runs alone, and the first one twice: its first run makes the plan, and
    # may compile.
    run.batch, run.job = arguments.batch_size or 1, Warm(run.job)
    PRINTERS[form](Prediction(row.path, row.top, row.milliseconds) for row in run.rows() if row.error is None)
    return run.code


def embed(arguments: argparse.Namespace) -> int:
    """Embed each image; an unreadable image is reported, and has no row, or in .npy one of NaN."""
    from ..batch.rows import Job

    form = format_of("embed", arguments.format, arguments.output)
    _check_engine(arguments, form)
    run = Run(Job(_model(arguments, arguments.model or DEFAULT_MODEL), None), arguments.images, arguments)
    if arguments.output is not None:
        return run.write(form)
    if form == "jsonl":
        return run.print_lines()
    from .embeddings import PRINTERS

    PRINTERS[form](run.rows())
    return run.code


def format_of(task: str, form: str | None, path: str | None) -> str:
    """The format to write: the one that is asked for, or that of the file's suffix, or a table.

    Raises InputError where a format is no file's, or binary would go to a terminal.
    """
    from ..batch.sinks import check_format

    ending = os.path.splitext(path or "")[1].removeprefix(".").lower()
    ending = SUFFIXES.get(ending, ending)
    form = form or (ending if ending in WRITTEN[task] else "table")
    if path is not None and form == "table":
        known = [f".{name}" for name in WRITTEN[task]]
        raise InputError(f"{printable(path)}: end its name in {', '.join(known[:-1])} or {known[-1]}, or give --format")
    if path is None and form not in PRINTED[task]:
        raise InputError(f"--format {form} is written to a file; give one: -o OUT.{form}")
    if path is None and form == "npy" and sys.stdout.isatty():
        raise InputError("--format npy writes binary data; give a file: -o embeddings.npy")
    check_format(form)
    return form


class Warm:
    """A job whose first batch runs twice, so that the times of all others are those of a network that is ready."""

    def __init__(self, job: Job):
        self.job, self.model, self.rows, self.cold = job, job.model, job.rows, True

    def answers(self, x):
        if self.cold:
            self.job.answers(x)
            self.cold = False
        return self.job.answers(x)


class Run:
    """One pass over images: reports errors and progress, counts both kinds of rows."""

    def __init__(self, job: Job, places: list[str], arguments: argparse.Namespace):
        self.job, self.places, self.arguments = job, places, arguments
        self.batch = arguments.batch_size or BATCH
        self.good = self.bad = 0

    @property
    def code(self) -> int:
        """The exit code: 1 if some images failed, 2 if all did."""
        return 0 if not self.bad else 1 if self.good else 2

    def rows(self, missing=lambda found: found, stopped: Callable[[], bool] = lambda: False) -> Iterator[Row]:
        """The rows as they come; `missing` chooses among the items."""
        from ..batch.sources import count, items
        from ..console import progress_bar

        found = missing(items(self.places, self.arguments.image_column))
        before = self.good + self.bad
        with progress_bar("images", "images/s") as progress, closing(self._computed(found, stopped)) as made:
            total = count(self.places) if progress else None
            for row in made:
                if row.error is None:
                    self.good += 1
                else:
                    self.bad += 1
                    fail(row.error)
                yield row
                if progress and (total is None or total > PROGRESS_ABOVE):
                    progress(self.good + self.bad, total, before)

    def _computed(self, found: Iterator[Item], stopped: Callable[[], bool]) -> Iterator[Row]:
        """The rows of items, by the engine that is asked for."""
        from ..batch.pipeline import Options, rows

        arguments, model = self.arguments, self.job.model
        options = Options(self.batch, model.threads or 1, not arguments.unordered)
        if arguments.engine == "local":
            return rows(found, self.job, options, stopped)
        from ..batch import ray_engine
        from ..batch.rows import about

        name = arguments.model or DEFAULT_MODEL
        network = {"model": name, "weights": _everywhere(arguments.weights), "topk": self.job.topk or 1}
        network.update(model_arguments(arguments, name))
        if "labels" in network:
            network["labels"] = model.labels  # the file need not be on other machines
        cluster = ray_engine.Cluster(arguments.address, arguments.workers)
        return ray_engine.rows(found, about(self.job), network, cluster, options, stopped)

    def print_lines(self) -> int:
        """JSON lines on standard output, each as soon as it is there."""
        from ..batch.rows import about
        from ..batch.sinks import json_line

        shared, lines = about(self.job), sys.stdout
        with redirect_stdout(sys.stderr):  # where Ray says that it lost a worker, in the midst of rows
            for row in self.rows():
                print(json_line(row, shared), end="", flush=True, file=lines)
        return self.code

    def write(self, form: str) -> int:
        """Write the output file; it appears when it is whole, and until then its rows are kept beside it."""
        from ..batch.journal import Journal
        from ..batch.rows import about

        journal = Journal(self.arguments.output, form, about(self.job), self.arguments.resume)
        with closing(journal), Finishing() as stop:
            self.good, self.bad = journal.held - journal.errors, journal.errors
            try:
                for number, row in enumerate(self.rows(journal.missing, stop.asked), 1):
                    journal.add(row)
                    if number % self.batch == 0:
                        journal.flush()
            finally:
                journal.flush()
            if stop.asked():
                fail(
                    f"interrupted: {journal.held} rows are in {printable(journal.path)}; go on: the same with --resume"
                )
                return INTERRUPTED
            journal.finish()
        return self.code


def _check_engine(arguments: argparse.Namespace, form: str) -> None:
    if arguments.engine == "local":
        for option in ("address", "workers"):
            if getattr(arguments, option) is not None:
                raise InputError(f"--{option} is for workers of a cluster; add --engine ray")
        return
    if arguments.output is None and form != "jsonl":
        raise InputError("--engine ray writes a file or JSON lines; give -o OUT.parquet or --format jsonl")
    # A worker of one core waits for nobody; and workers of a machine have no more threads together than it has cores.
    arguments.threads = arguments.threads or 1


def _model(arguments: argparse.Namespace, name: str):
    if arguments.resume and arguments.output is None:
        raise InputError("--resume goes on with a file; say which: -o OUT.parquet")
    warnings.filterwarnings("ignore", module=r"PIL\.")  # a file's faults are said in one line, or are harmless
    return model_of(arguments, name, arguments.weights)


def _everywhere(weights: str | None) -> str | None:
    """Weights as another process names them, whose current folder may be another."""
    path = (weights or "").split("#")[0]
    return os.path.abspath(weights) if path and os.path.exists(path) else weights


def _samples() -> list[str]:
    """The sample digits, as paths from the current folder where they lie below it."""
    from ..data import FOLDER

    folder = FOLDER / "digits"
    with suppress(OSError, ValueError):  # elsewhere, or in a folder that is gone
        folder = folder.relative_to(Path.cwd())
    return [str(path) for path in sorted(folder.glob("*.png"))]
