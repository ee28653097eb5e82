"""Rows to a file: JSON lines, JSON, CSV, NumPy's .npy, Parquet and Arrow. Each format is a writer in `WRITERS`.

A writer takes the rows one by one, an open binary file, what the rows share, and how many they are.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice

import numpy as np

from ..errors import InputError, without_escapes
from .rows import About, Row

GROUP_ROWS = 8192  # of a Parquet row group or an Arrow batch, which is as much as is in memory


def record(row: Row, about: About) -> dict:
    """A row as a flat record of plain values: what a line of JSON lines holds. The error of an image has no results."""
    shared = {"error": row.error, "model": about.model, "weights": about.weights}
    if about.task == "embed":
        return {"path": row.path, "embedding": None if row.vector is None else shortest(row.vector), **shared}
    labels, indices, probabilities = zip(*row.top, strict=True) if row.top else (None, None, None)
    return {"path": row.path, "labels": labels, "indices": indices, "probabilities": probabilities, **shared}


def json_line(row: Row, about: About) -> str:
    """One line of JSON lines."""
    return json.dumps(record(row, about), allow_nan=False) + "\n"


def shortest(vector: np.ndarray) -> list[float]:
    """Numbers with the digits that tell them apart in float32; None for those that JSON does not have."""
    return [float(str(value)) if np.isfinite(value) else None for value in vector]


def _write_jsonl(rows: Iterable[Row], file, about: About, count: int) -> None:
    for row in rows:
        file.write(json_line(row, about).encode("ascii"))


def _write_json(rows: Iterable[Row], file, about: About, count: int) -> None:
    """One array with an object for each image; of embeddings, for each that has one."""
    if about.task == "embed":
        objects = ({"file": row.path, "embedding": shortest(row.vector)} for row in rows if row.vector is not None)
    else:
        objects = (_nested(row) for row in rows)
    for number, item in enumerate(objects):
        file.write(((",\n" if number else "[\n") + json.dumps(item, allow_nan=False)).encode("ascii"))
    file.write(b"\n]\n")


def _nested(row: Row) -> dict:
    if row.top is None:
        return {"file": row.path, "error": row.error}
    labels = [{"label": label, "index": index, "probability": probability} for label, index, probability in row.top]
    return {"file": row.path, "predictions": labels}


def _write_csv(rows: Iterable[Row], file, about: About, count: int) -> None:
    """A row for each label, or for each embedding. An image with an error has one among labels, and no embedding."""
    text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    write_embeddings(rows, writer) if about.task == "embed" else _write_labels(rows, writer, about)
    text.detach()


def write_embeddings(rows: Iterable[Row], writer) -> None:
    """A CSV row for each embedding: its file and its numbers, each with the digits that tell it apart in float32."""
    rows = (row for row in rows if row.vector is not None)
    first = next(rows, None)
    if first is None:
        return
    writer.writerow(["file", *(f"e{index}" for index in range(len(first.vector)))])
    for row in chain([first], rows):
        writer.writerow([row.path, *map(str, row.vector)])


def _write_labels(rows: Iterable[Row], writer, about: About) -> None:
    writer.writerow(["file", "rank", "label", "index", "probability", "error", "model", "weights"])
    shared = (about.model, about.weights)
    for row in rows:
        path = without_escapes(row.path)
        if row.top is None:
            writer.writerow([path, "", "", "", "", without_escapes(row.error), *shared])
            continue
        for rank, (label, index, probability) in enumerate(row.top, 1):
            writer.writerow([path, rank, without_escapes(label), index, repr(probability), "", *shared])


def _write_npy(rows: Iterable[Row], file, about: About, count: int) -> None:
    """A float32 array (N, D) with a row for each image, of NaN where it has no embedding."""
    lost = np.zeros(0, np.float32)
    rows, missing = iter(rows), 0
    first = next(row for row in rows if row.vector is not None or not (missing := missing + 1))
    lost = np.full_like(first.vector, np.nan)
    header = {"descr": first.vector.dtype.str, "fortran_order": False, "shape": (count, len(lost))}
    np.lib.format.write_array_header_1_0(file, header)
    file.write(lost.tobytes() * missing)
    for row in chain([first], rows):
        file.write((lost if row.vector is None else row.vector).tobytes())


def _write_parquet(rows: Iterable[Row], file, about: About, count: int) -> None:
    batches = _record_batches(rows, about)
    first = next(batches)
    from pyarrow import parquet

    with parquet.ParquetWriter(file, first.schema) as writer:
        for batch in chain([first], batches):
            writer.write_batch(batch)


def _write_arrow(rows: Iterable[Row], file, about: About, count: int) -> None:
    batches = _record_batches(rows, about)
    first = next(batches)
    import pyarrow

    with pyarrow.ipc.new_file(file, first.schema) as writer:
        for batch in chain([first], batches):
            writer.write_batch(batch)


def _record_batches(rows: Iterable[Row], about: About) -> Iterator:
    """The rows as Arrow record batches."""
    rows = iter(rows)
    while group := list(islice(rows, GROUP_ROWS)):
        yield from arrow_table(group, about).to_batches()


def arrow_table(rows: list[Row], about: About):
    """The rows as a pyarrow.Table of `record`'s columns."""
    import pyarrow

    results = (
        {"embedding": pyarrow.list_(pyarrow.float32())}
        if about.task == "embed"
        else {
            "labels": pyarrow.list_(pyarrow.string()),
            "indices": pyarrow.list_(pyarrow.int32()),
            "probabilities": pyarrow.list_(pyarrow.float64()),
        }
    )
    text = pyarrow.string()
    schema = pyarrow.schema({"path": text, **results, "error": text, "model": text, "weights": text})
    columns = {name: [] for name in schema.names}
    for row in rows:
        for name, value in _cells(row, about).items():
            columns[name].append(value)
    return pyarrow.Table.from_pydict(columns, schema)


def _cells(row: Row, about: About) -> dict:
    """`record` for Arrow, whose strings are UTF-8: a file name may be none."""
    cells = record(row._replace(vector=None), about)
    for name in ("path", "error"):
        if cells[name] is not None:
            cells[name] = cells[name].encode("utf-8", "backslashreplace").decode()
    if about.task == "embed":
        cells["embedding"] = row.vector
    return cells


WRITERS = {
    "jsonl": _write_jsonl,
    "json": _write_json,
    "csv": _write_csv,
    "npy": _write_npy,
    "parquet": _write_parquet,
    "arrow": _write_arrow,
}


def check_format(form: str) -> None:
    """InputError where a package that the format needs is missing."""
    if form in ("parquet", "arrow"):
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise InputError(f"to write {form} files, run: pip install pyarrow") from None
