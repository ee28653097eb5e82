"""What predict prints: a table for people, JSON and CSV for machines."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from ..errors import printable, without_escapes
from ..reports.report import Column, Table

WHOLE = 1 << 20  # characters: no file name is longer


@dataclass(frozen=True)
class Prediction:
    """One classified image: (label, index, probability) in falling order, and the time of the network alone."""

    file: str
    top: list[tuple[str, int, float]]
    milliseconds: float


class Row(NamedTuple):
    """One label of an image; `rank` counts from 1."""

    file: str
    rank: int
    label: str
    index: int
    probability: float
    milliseconds: float


def three_digits(value: float) -> str:
    """A positive number with three significant digits and no exponent: 0.0421, 4.21, 42.1, 4210."""
    if not 0 < value < math.inf:
        return f"{value:g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


# Machines get decimals, which CSV and JSON write with the digits that they have. People find file and time in the first
# row of an image alone.
COLUMNS = (
    Column("file", "file", lambda row: printable(row.file, WHOLE) if row.rank == 1 else ""),
    Column(None, "rank"),
    Column("label", "label", lambda row: printable(row.label, WHOLE)),
    Column(None, "index"),
    Column(
        "probability",
        "probability",
        lambda row: f"{row.probability:.1%}",
        right=True,
        read=lambda row: Decimal(f"{row.probability:.6f}"),
    ),
    Column(
        "milliseconds",
        "milliseconds",
        lambda row: three_digits(row.milliseconds) if row.rank == 1 else "",
        right=True,
        read=lambda row: Decimal(three_digits(row.milliseconds)),
    ),
)
OF_IMAGE, OF_LABEL = ("file", "milliseconds"), ("label", "index", "probability")  # how JSON nests the fields


def print_table(predictions: Iterable[Prediction]) -> None:
    """One row for each label; images with several labels are set apart. Nothing if there are no predictions."""
    from .. import console

    tables = [_table(item) for item in predictions]
    groups = [table.cells() for table in tables]
    if all(len(group) == 1 for group in groups):
        groups = [[row for group in groups for row in group]]
    if tables:
        console.print_table(tables[0].shown, *groups)


def print_json(predictions: Iterable[Prediction]) -> None:
    """One array with an object for each image. A probability that is NaN becomes null, as JSON has no NaN."""
    items = []
    for prediction in predictions:
        rows = _table(prediction).records()
        labels = [{field: row[field] for field in OF_LABEL} for row in rows]
        items.append({field: rows[0][field] for field in OF_IMAGE} | {"predictions": labels})
    print(json.dumps(items, indent=2, allow_nan=False, default=_number))


def print_csv(predictions: Iterable[Prediction]) -> None:
    """One row for each label, written as soon as its image is done."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(column.field for column in COLUMNS)
    for prediction in predictions:
        for record in _table(prediction).records():
            fields = record.values()
            writer.writerow(without_escapes(field) if isinstance(field, str) else field for field in fields)


PRINTERS = {"table": print_table, "json": print_json, "csv": print_csv}


def _table(item: Prediction) -> Table:
    rows = [Row(item.file, rank, *top, item.milliseconds) for rank, top in enumerate(item.top, 1)]
    return Table("", None, COLUMNS, rows)


def _number(value: Decimal) -> float | None:
    return float(value) if value.is_finite() else None
