"""Rows of a whole output, read back so that a run can add to it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from ..errors import InputError, damaged, printable
from .rows import About, Row

READABLE = ("jsonl", "parquet", "arrow")  # the formats that hold everything that a row is


def rows_of(path: str, form: str, about: About) -> Iterator[Row]:
    """The rows of a file that one of `sinks.WRITERS` wrote.

    Raises InputError for a format that holds less than rows, for a damaged file and for rows of another run than
    `about`, as far as they tell.
    """
    if form not in READABLE:
        raise InputError(
            f"{printable(path)}: is complete, and no rows can be added to a .{form} file; leave out --resume to make "
            f"it anew, or write {', '.join(READABLE)}"
        )
    try:
        for record in _lines(path) if form == "jsonl" else _cells(path, form):
            if (record["model"], record["weights"]) != (about.model, about.weights):
                raise _others(path)
            row = row_of(record, about)
            if row.top is not None and len(row.top) != about.topk:
                raise _others(path)
            yield row
    except (ValueError, KeyError, TypeError) as error:  # pyarrow's errors are ValueErrors
        if isinstance(error, InputError):
            raise
        raise damaged(path, "holds no rows of nanoinfer") from None


def _lines(path: str) -> Iterator[dict]:
    with open(path, encoding="utf-8") as file:
        yield from map(json.loads, file)


def _cells(path: str, form: str) -> Iterator[dict]:
    import pyarrow
    from pyarrow import parquet

    if form == "parquet":
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
        return
    with pyarrow.OSFile(path) as source, pyarrow.ipc.open_file(source) as file:
        for number in range(file.num_record_batches):
            yield from file.get_batch(number).to_pylist()


def row_of(record: dict, about: About) -> Row:
    """The row of a record, whose columns are those of `sinks.record`."""
    name, error = record["path"], record["error"]
    if error is not None:
        return Row(name, error=error)
    if about.task == "predict":
        return Row(name, list(zip(record["labels"], record["indices"], record["probabilities"], strict=True)))
    return Row(name, vector=np.array([np.nan if value is None else value for value in record["embedding"]], np.float32))


def _others(path: str) -> InputError:
    return InputError(
        f"{printable(path)}: its rows were made with other weights or another --topk; choose another file"
    )
