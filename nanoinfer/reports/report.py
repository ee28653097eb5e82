"""What all reports share: a value with records, printed as text, JSON, CSV or Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence

FORMATS = ("table", "json", "csv", "markdown")


class Report:
    """A table with lines above and below it.

    A subclass states `columns` (a title beginning with ">" aligns its column to the right) and gives `cells()`, the
    strings of each row, `records()`, the same rows as {field: value} for machines, and `to_dict()`, all there is.
    """

    columns: Sequence[str] = ()

    def cells(self) -> list[tuple[str, ...]]:
        """The rows as people read them."""
        raise NotImplementedError

    def records(self) -> list[dict]:
        """The rows as machines read them: plain numbers, strings, lists and None."""
        raise NotImplementedError

    def heading(self) -> list[str]:
        """Lines above the table."""
        return []

    def footing(self) -> list[str]:
        """Lines below the table."""
        return []

    def to_dict(self) -> dict:
        """Everything that the report holds, ready for JSON."""
        raise NotImplementedError

    def to_json(self) -> str:
        """One object. A number that is infinite or none becomes null, as JSON has neither."""
        return json.dumps(_finite(self.to_dict()), indent=2, allow_nan=False)

    def to_csv(self) -> str:
        """A header line and one line for each row; a shape is written 1x3x224x224."""
        file, records = io.StringIO(), self.records()
        writer = csv.writer(file, lineterminator="\n")
        if records:
            writer.writerow(records[0])
        for record in records:
            writer.writerow(
                "x".join(map(str, value)) if isinstance(value, list) else value for value in record.values()
            )
        return file.getvalue().rstrip("\n")

    def to_markdown(self) -> str:
        """Heading, table and footing."""
        parts = ["  \n".join(self.heading()), markdown_table(self.columns, self.cells()), "  \n".join(self.footing())]
        return "\n\n".join(part for part in parts if part)

    def __str__(self) -> str:
        parts = ["\n".join(self.heading()), text_table(self.columns, self.cells()), "\n".join(self.footing())]
        return "\n\n".join(part for part in parts if part)


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, two spaces apart, a line under the titles."""
    titles = [column.lstrip(">") for column in columns]
    widths = [max(map(len, cells)) for cells in zip(titles, *rows, strict=True)]
    lines = [titles, ["-" * width for width in widths], *rows]
    aligned = [
        [
            cell.rjust(width) if column.startswith(">") else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ]
        for line in lines
    ]
    return "\n".join("  ".join(line).rstrip() for line in aligned)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a "|" inside a cell is escaped."""
    titles = [column.lstrip(">") for column in columns]
    rules = ["---:" if column.startswith(">") else "---" for column in columns]
    lines = [titles, rules, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
