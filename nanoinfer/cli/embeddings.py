"""What embed prints: a table for people; JSON, CSV and NumPy's .npy for machines."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np

from ..errors import InputError, printable
from ..reports.report import Column, Table

SHOWN = 4  # numbers of a vector that the table has room for


class Embedding(NamedTuple):
    """One image, by its place among all: float32 (D,), what the network's head reads."""

    index: int
    file: str
    vector: np.ndarray


def print_table(embeddings: Sequence[Embedding]) -> None:
    """One row for each image: its length, its norm and its first numbers."""
    from .. import console

    columns = (
        Column("file", "file", lambda item: printable(item.file, 1 << 20)),
        Column("dimensions", "dimensions", right=True, read=lambda item: len(item.vector)),
        Column("norm", "norm", "{:.4g}", right=True, read=lambda item: float(np.linalg.norm(item.vector))),
        Column("first values", "vector", lambda item: " ".join(f"{value:.4g}" for value in item.vector[:SHOWN])),
    )
    table = Table("", None, columns, embeddings)
    console.print_table(table.shown, table.cells())


def print_json(embeddings: Sequence[Embedding], file) -> None:
    """One array with an object for each image, {"file", "embedding"}."""
    items = [{"file": item.file, "embedding": [*map(float, map(str, item.vector))]} for item in embeddings]
    file.write("[\n" + ",\n".join(map(json.dumps, items)) + "\n]\n")


def print_csv(embeddings: Sequence[Embedding], file) -> None:
    """One row for each image: its name and its numbers, each with the digits that tell it apart in float32."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["file", *(f"e{index}" for index in range(len(embeddings[0].vector)))])
    for item in embeddings:
        writer.writerow([item.file, *map(str, item.vector)])


WRITERS = {"json": print_json, "csv": print_csv}


def format_of(form: str | None, path: str | None) -> str:
    """The format to write: the one that is asked for, or that of the file's suffix, or a table.

    Raises InputError where a format is no file's, or binary would go to a terminal.
    """
    suffix = os.path.splitext(path or "")[1].removeprefix(".")
    form = form or (suffix if suffix in ("json", "csv", "npy") else "table")
    if path is not None and form == "table":
        raise InputError(f"{printable(path)}: end its name in .json, .csv or .npy, or give --format")
    if path is None and form == "npy" and sys.stdout.isatty():
        raise InputError("--format npy writes binary data; give a file: -o embeddings.npy")
    return form


def write(embeddings: Sequence[Embedding], images: int, form: str, path: str | None) -> None:
    """Write embeddings to a file, or to standard output if `path` is None; of no `images`, nothing.

    An .npy file is one float32 array (N, D) with a row for each of `images`, in order: NaN where one has no embedding.
    """
    if not embeddings:
        return
    if form == "table":
        print_table(embeddings)
    elif form == "npy":
        array = np.full((images, len(embeddings[0].vector)), np.nan, np.float32)
        for item in embeddings:
            array[item.index] = item.vector
        with open(path, "wb") if path else nullcontext(sys.stdout.buffer) as file:
            np.save(file, array, allow_pickle=False)
    else:
        with open(path, "w", encoding="utf-8", newline="") if path else nullcontext(sys.stdout) as file:
            WRITERS[form](embeddings, file)
