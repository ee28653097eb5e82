"""What the command line prints: tables for people, JSON and CSV for machines.

rich draws the tables and is imported for them alone: it takes about as long to load as everything else together.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterable


def _three_digits(value: float) -> str:
    """A positive number with three significant digits and no exponent: 0.0421, 4.21, 42.1, 4210."""
    if not 0 < value < math.inf:
        return f"{value:g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def predictions_table(predictions: Iterable) -> None:
    """One row for each label; file and time stand in the first row of an image."""
    table = _table("file", "label", ">probability", ">milliseconds")
    for item in predictions:
        file, milliseconds = item.file, _three_digits(item.milliseconds)
        for label, _, probability in item.top:
            _add_row(table, file, label, f"{probability:.1%}", milliseconds)
            file = milliseconds = ""
        if len(item.top) > 1:
            table.add_section()
    if table.row_count:
        _print(table)


def predictions_json(predictions: Iterable) -> None:
    """One array with an object for each image. A probability that is no number becomes null, as JSON has no NaN."""
    rows = [
        {
            "file": item.file,
            "milliseconds": float(_three_digits(item.milliseconds)),
            "predictions": [
                {"label": label, "index": int(index), "probability": _rounded(probability)}
                for label, index, probability in item.top
            ],
        }
        for item in predictions
    ]
    print(json.dumps(rows, indent=2, allow_nan=False))


def predictions_csv(predictions: Iterable) -> None:
    """One row for each label, written as soon as its image is done."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("file", "rank", "label", "index", "probability", "milliseconds"))
    for item in predictions:
        for rank, (label, index, probability) in enumerate(item.top, 1):
            milliseconds = _three_digits(item.milliseconds)
            writer.writerow((item.file, rank, label, index, f"{probability:.6f}", milliseconds))


PRINTERS = {"table": predictions_table, "json": predictions_json, "csv": predictions_csv}


def models_table(architectures: Iterable) -> None:
    """Name, number of parameters, input and description of networks."""
    table = _table("name", ">parameters", ">input", "description")
    for item in architectures:
        count = sum(math.prod(shape) for shape in item.graph().parameters.values())
        size = " x ".join(map(str, (3, *item.preprocessing.crop)))
        _add_row(table, item.name, f"{count:,}", size, item.description)
    _print(table)


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Rows of strings; a column named ">..." is aligned to the right."""
    table = _table(*columns)
    for row in rows:
        _add_row(table, *row)
    _print(table)


def _rounded(probability: float) -> float | None:
    return round(float(probability), 6) if math.isfinite(probability) else None


def _table(*columns: str):
    """An empty table; a column named ">..." is aligned to the right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.lstrip(">"), justify="right" if right else "left", no_wrap=right, overflow="fold")
    return table


def _add_row(table, *cells: str) -> None:
    from rich.text import Text  # not str: rich would read "[...]" in a file name as its own markup

    table.add_row(*(Text(cell) for cell in cells))


def _print(table) -> None:
    """To the terminal's width; in a pipe or file, every row on one line, however long."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=10_000)
    console.print(table)
