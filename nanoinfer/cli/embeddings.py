"""What embed prints: a table for people; JSON, CSV and NumPy's .npy for machines."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable

import numpy as np

from ..batch.rows import Row
from ..batch.sinks import shortest, write_embeddings
from ..errors import printable
from ..reports.report import Column, Table

SHOWN = 4  # numbers of a vector that the table has room for


def print_table(rows: Iterable[Row]) -> None:
    """One line for each embedding: its length, its norm and its first numbers. Nothing if there are none."""
    from .. import console

    columns = (
        Column("file", "file", lambda item: printable(item.path, 1 << 20)),
        Column("dimensions", "dimensions", right=True, read=lambda item: len(item.vector)),
        Column("norm", "norm", "{:.4g}", right=True, read=lambda item: float(np.linalg.norm(item.vector))),
        Column("first values", "vector", lambda item: " ".join(f"{value:.4g}" for value in item.vector[:SHOWN])),
    )
    table = Table("", None, columns, [row for row in rows if row.vector is not None])
    if table.rows:
        console.print_table(table.shown, table.cells())


def print_json(rows: Iterable[Row]) -> None:
    """One array with an object for each embedding, {"file", "embedding"}."""
    lines = [
        json.dumps({"file": row.path, "embedding": shortest(row.vector)}) for row in rows if row.vector is not None
    ]
    if lines:
        print("[\n" + ",\n".join(lines) + "\n]")


def print_csv(rows: Iterable[Row]) -> None:
    """One line for each embedding, as soon as it is there."""
    write_embeddings(rows, csv.writer(sys.stdout, lineterminator="\n"))


def print_npy(rows: Iterable[Row]) -> None:
    """One float32 array (N, D) with a row for each image, of NaN where it has no embedding; nothing if none has."""
    vectors = [row.vector for row in rows]
    known = next((vector for vector in vectors if vector is not None), None)
    if known is not None:
        lost = np.full_like(known, np.nan)
        array = np.stack([lost if vector is None else vector for vector in vectors])
        content = io.BytesIO()  # NumPy itself asks a file for its position, which a pipe has not
        np.save(content, array, allow_pickle=False)
        sys.stdout.buffer.write(content.getbuffer())


PRINTERS = {"table": print_table, "json": print_json, "csv": print_csv, "npy": print_npy}
