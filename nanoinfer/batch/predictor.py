"""Predictor: the pipeline as a function of a batch, for engines that carry batches to many processes."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from ..errors import InputError, printable
from .archives import cell
from .items import Item, failed
from .pipeline import Options, rows
from .remote import fetcher, is_remote
from .rows import Job, Row, about, weights_hash

IMAGE_COLUMNS = ("image", "bytes", "content", "img", "path")  # of a batch, the first of which is taken
TASKS = ("predict", "embed")
RESULTS = {"labels", "indices", "probabilities", "embedding"}  # columns that an image with an error has nothing for

_models: dict[object, tuple] = {}  # of this process: (model, its weights' hash)
_making = threading.RLock()


def _renew_lock() -> None:
    """In a forked child: the thread that held the lock does not exist there."""
    global _making
    _making = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class Predictor:
    """A function from a batch of images to columns of results, with the bits of `nanoinfer predict` or `embed`.

    It is small to pickle: a copy reads the weights when it is first called, and copies of one process share them.

        dataset.map_batches(Predictor("resnet18", topk=3), batch_size=64)     # Ray Data
    """

    def __init__(
        self, model, weights=None, *, task: str = "predict", topk: int = 5, column: str | None = None,
        batch_size: int = 32, **options,
    ):  # fmt: skip
        """`model`, `weights` and `options` are arguments of `create_model`; or `model` is a Model, without the others.
        Unless `options` say otherwise, workers of a machine share packed weights (`share_weights`).

        task: "predict" for the `topk` most probable classes, or "embed". column: which one of a batch holds the images,
        by default the first of IMAGE_COLUMNS. batch_size: images of a call of the network.
        Without `threads`, workers of Ray and Spark have one for each core that they are given (OMP_NUM_THREADS).

        Raises InputError for a name that is no network's, and for arguments that do not belong together.
        """
        if task not in TASKS:
            raise InputError(f"task={task!r}: give one of {', '.join(TASKS)}")
        for name, value in (("topk", topk), ("batch_size", batch_size)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name}={value!r}: give a whole number from 1 on")
        self.task, self.topk, self.column, self.batch_size = task, topk, column, batch_size
        if isinstance(model, str):
            from ..pretrained.loading import find_network

            find_network(model)
            self._arguments = (model, weights, options)
        elif weights is not None or options or not hasattr(model, "preprocess"):
            raise InputError("a Predictor takes the name of a network with its arguments, or a Model alone")
        else:
            self._arguments = model
        self._token = uuid.uuid4()

    def __repr__(self) -> str:
        known = self._arguments
        return f"<nanoinfer Predictor, {self.task}, {known[0] if isinstance(known, tuple) else known.name}>"

    @property
    def model(self):
        """The Model of this process, made when it is first asked for."""
        return self._shared()[0]

    def __call__(self, batch):
        """Columns of results, a row for each image in its order; a mapping keeps its columns but that of the images.

        batch: a mapping {column: array}, such as a batch of Ray Data, or a pandas DataFrame; or a sequence or array of
        images: paths, addresses, bytes, PIL images, uint8 arrays (H, W, 3) or (H, W), {"bytes", "path"}.

        Columns of "predict" are labels (N, k), str; indices (N, k), int32; probabilities (N, k), float64. That of
        "embed" is embedding (N, D), float32. error is None, or says in a line why there is no result, which is then "",
        -1 and NaN. model and weights say what made it, as in files of the command line.

        A pyarrow.Table gives a pyarrow.Table: its results have the types of the command line's Parquet files, and nulls
        where there is no result. So files that an engine writes of it are like those.

        Raises InputError for a batch that holds no images.
        """
        if hasattr(batch, "to_batches"):
            return self._table(batch)
        images, columns = self._columns(batch)
        made, job, weights = self._rows(images)
        results = _predicted(made, min(self.topk, len(job.model.labels))) if job.topk else _embedded(made, job)
        results["error"] = _objects(row.error for row in made)
        results["model"] = _objects(job.model.name for _ in made)
        results["weights"] = _objects(weights for _ in made)
        _check_distinct(columns, results)
        return {**columns, **results}

    def _table(self, table):
        """`__call__` of a pyarrow.Table."""
        from .sinks import arrow_table

        name = self._image_column(table.column_names)
        made, job, weights = self._rows(table[name].to_pylist())
        results, table = arrow_table(made, about(job, weights)).drop_columns("path"), table.drop_columns(name)
        _check_distinct(table.column_names, results.column_names)
        for field in results.schema:
            table = table.append_column(field, results[field.name])
        return table

    def _rows(self, images) -> tuple[list[Row], Job, str]:
        """(a row for each image, the job that made them, its weights' hash)."""
        model, weights = self._shared()
        if self.task == "predict" and not model.labels:
            raise InputError(f"{model.name} has no head with these weights, and so no classes; use task='embed'")
        job = Job(model, self.topk if self.task == "predict" else None)
        made = rows(map(_item, range(len(images)), images), job, Options(self.batch_size, model.threads))
        return [*made], job, weights

    def pandas(self, batches: Iterable) -> Iterator:
        """DataFrames to DataFrames of results, as Spark wants it: frame.mapInPandas(predictor.pandas, schema).

        Where an image has an error, its results are None, which files show as null.
        """
        import pandas

        for batch in batches:
            columns = {name: [*column] for name, column in self(batch).items()}
            for name in RESULTS & columns.keys():
                known = zip(columns[name], columns["error"], strict=True)
                columns[name] = [None if error is not None else value for value, error in known]
            yield pandas.DataFrame(columns)

    def _columns(self, batch) -> tuple[object, dict[str, np.ndarray]]:
        """(images, the other columns) of a batch."""
        if isinstance(batch, Mapping) or hasattr(batch, "columns"):
            names = [*batch.keys()]
            name = self._image_column(names)
            return _sequence(batch[name]), {other: np.asarray(batch[other]) for other in names if other != name}
        return _sequence(batch), {}

    def _image_column(self, names: list[str]) -> str:
        """Which of a batch's columns holds the images."""
        known = IMAGE_COLUMNS if self.column is None else (self.column,)
        name = next((name for name in known if name in names), None)
        if name is None:
            shown = ", ".join(map(printable, names))
            raise InputError(f"the batch has no column {' or '.join(known)}; say which of {shown} holds the images")
        return name

    def _shared(self) -> tuple:
        """(model, its weights' hash), once for all copies of this process."""
        key = self._key()
        if key not in _models:
            with _making:
                if key not in _models:
                    model = self._made()
                    _models[key] = model, weights_hash(model.tensors)
        return _models[key]

    def _made(self):
        if not isinstance(self._arguments, tuple):
            return self._arguments
        from ..model import create_model

        name, weights, options = self._arguments
        return create_model(name, weights, **{"share_weights": True, **options})  # engines start many workers

    def _key(self):
        """What copies share, and predictors of the same arguments where these can be compared."""
        if not isinstance(self._arguments, tuple):
            return self._token
        name, weights, options = self._arguments
        key = (name, weights, *sorted(options.items()))
        try:
            hash(key)
        except TypeError:
            return self._token
        return key


def _check_distinct(columns: Iterable[str], results: Iterable[str]) -> None:
    twice = sorted({*columns} & {*results})
    if twice:
        raise InputError(f"the batch has a column {printable(twice[0])!r}, as the results have; rename it")


def _sequence(images):
    """Images by their number; InputError for what is none, or one alone."""
    if isinstance(images, (str, bytes)) or not hasattr(images, "__len__") or isinstance(images, Mapping):
        raise InputError("a batch is a mapping of columns, or a sequence of images; put a single one into a list")
    return images if isinstance(images, (list, tuple, np.ndarray)) else [*images]


def _item(number: int, image) -> Item:
    """The item of one cell of a column."""
    name = f"image {number}"
    if isinstance(image, (bytearray, memoryview)):
        image = bytes(image)
    if isinstance(image, str):
        return Item(image, fetcher(image) if is_remote(image) else image)
    if isinstance(image, os.PathLike):
        return Item(os.fspath(image), image)
    if image is None:
        return failed(name, "the image is missing")
    return cell(image, name) if isinstance(image, Mapping) or isinstance(image, bytes) else Item(name, image)


def _predicted(made: list[Row], topk: int) -> dict[str, np.ndarray]:
    lost = [("", -1, np.nan)] * topk
    tops = [lost if row.top is None else row.top for row in made]
    shape = len(made), topk
    return {
        "labels": np.array([[label for label, _, _ in top] for top in tops], dtype=str).reshape(shape),
        "indices": np.array([[index for _, index, _ in top] for top in tops], dtype=np.int32).reshape(shape),
        "probabilities": np.array([[value for _, _, value in top] for top in tops], dtype=np.float64).reshape(shape),
    }


def _embedded(made: list[Row], job: Job) -> dict[str, np.ndarray]:
    known = next((row.vector for row in made if row.vector is not None), None)
    if known is None:  # of an image that is black the width is as good
        known = job.model.embed(np.zeros((1, job.model.channels, *job.model.preprocessing.crop), np.float32))[0]
    lost = np.full_like(known, np.nan)
    vectors = [lost if row.vector is None else row.vector for row in made]
    return {"embedding": np.stack(vectors) if vectors else np.empty((0, len(known)), known.dtype)}


def _objects(values: Iterable) -> np.ndarray:
    """A column (N,) of Python values."""
    values = [*values]
    column = np.empty(len(values), object)
    column[:] = values
    return column
