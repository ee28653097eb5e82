"""A report is tables of columns, with lines above and below; text, JSON, CSV and Markdown read the same columns."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import without_escapes

FORMATS = ("table", "json", "csv", "markdown")


@dataclass(frozen=True)
class Column:
    """One field of a table's rows, named once for people and for machines.

    `title` heads the column for people; a field with title None is for machines only. `field` is the key in JSON and
    the header in CSV, and the attribute of a row that holds the value; a column with field None is for people only.
    `form` makes the text for people: a format of the value, or a function of the row. `read` gets the value from a row
    where it is not the attribute. Numbers stand to the right (`right`).
    """

    title: str | None
    field: str | None
    form: str | Callable[[object], str] = "{}"
    right: bool = False
    read: Callable[[object], object] | None = None

    def value(self, row):
        """The field for machines: numbers, strings, lists and None. A tuple becomes a list, as in JSON."""
        value = self.read(row) if self.read else getattr(row, self.field)
        return list(value) if isinstance(value, tuple) else value

    def text(self, row) -> str:
        """The field for people; "-" for None, unless `form` is a function."""
        if callable(self.form):
            return self.form(row)
        value = self.read(row) if self.read else getattr(row, self.field)
        return "-" if value is None else self.form.format(value)


class Table(NamedTuple):
    """Rows and the columns that read them. `field` is the table's key in JSON, None for a table for people only."""

    title: str
    field: str | None
    columns: Sequence[Column]
    rows: Sequence

    @property
    def shown(self) -> list[Column]:
        """The columns for people."""
        return [column for column in self.columns if column.title is not None]

    def cells(self) -> list[tuple[str, ...]]:
        """The rows as people read them, a string for each shown column."""
        return [tuple(column.text(row) for column in self.shown) for row in self.rows]

    def records(self) -> list[dict]:
        """The rows as machines read them: {field: value}."""
        columns = [column for column in self.columns if column.field is not None]
        return [{column.field: column.value(row) for column in columns} for row in self.rows]

    def text(self) -> str:
        """Aligned columns, two spaces apart, a line under the titles."""
        titles, cells = [column.title for column in self.shown], self.cells()
        widths = [max(map(len, texts)) for texts in zip(titles, *cells, strict=True)]
        lines = []
        for line in (titles, ["-" * width for width in widths], *cells):
            aligned = zip(line, widths, self.shown, strict=True)
            padded = (cell.rjust(width) if column.right else cell.ljust(width) for cell, width, column in aligned)
            lines.append("  ".join(padded).rstrip())
        return "\n".join(lines)

    def markdown(self) -> str:
        """A Markdown table."""
        rules = ["---:" if column.right else "---" for column in self.shown]
        return markdown_table([column.title for column in self.shown], self.cells(), rules)


class Report:
    """One or more tables with lines above and below them.

    A subclass gives `tables()`, the first of which is the one of CSV, and what else it has to say: `heading()`,
    `footing()`, and `figures()` for JSON.
    """

    def tables(self) -> list[Table]:
        """The tables in the order in which people read them."""
        raise NotImplementedError

    def figures(self) -> dict[str, object]:
        """What JSON holds before the tables: {key: value}."""
        return {}

    def heading(self) -> list[str]:
        """Lines above the tables."""
        return []

    def footing(self) -> list[str]:
        """Lines below the tables."""
        return []

    def parts(self) -> list[list[str] | Table]:
        """The report as people read it from top to bottom: lines, tables, lines; a blank line parts them."""
        return [part for part in (self.heading(), *self.tables(), self.footing()) if part]

    def to_dict(self) -> dict:
        """Everything that the report holds, ready for JSON."""
        return self.figures() | {table.field: table.records() for table in self.tables() if table.field}

    def to_json(self) -> str:
        """One object. A number that is infinite or NaN becomes null, as JSON has neither."""
        return json.dumps(_finite(self.to_dict()), indent=2, allow_nan=False)

    def to_csv(self) -> str:
        """The first table: a header line and one line for each row; a shape is written 1x3x224x224.

        Control characters, which the names of a file may hold, are escaped, since CSV is also read in a terminal.
        """
        file, records = io.StringIO(), self.tables()[0].records()
        writer = csv.writer(file, lineterminator="\n")
        if records:
            writer.writerow(records[0])
        for record in records:
            writer.writerow(map(_csv_field, record.values()))
        return file.getvalue().rstrip("\n")

    def to_markdown(self) -> str:
        """All parts; a table's title is a heading of level 3."""
        return self._joined("  \n", "### {}\n\n{}", Table.markdown)

    def __str__(self) -> str:
        return self._joined("\n", "{}\n\n{}", Table.text)

    def _joined(self, line_end: str, titled: str, draw: Callable[[Table], str]) -> str:
        texts = []
        for part in self.parts():
            if not isinstance(part, Table):
                texts.append(line_end.join(part))
            else:
                texts.append(titled.format(part.title, draw(part)) if part.title else draw(part))
        return "\n\n".join(texts)


def markdown_table(titles: Sequence[str], cells: Sequence[Sequence[str]], rules: Sequence[str] = ()) -> str:
    """A Markdown table; a "|" inside a cell is escaped. `rules` align the columns: "---" left, "---:" right."""
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in cells)
    lines = [titles, rules or ["---"] * len(titles), *escaped]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _csv_field(value):
    if isinstance(value, list):
        return "x".join(map(str, value))
    return without_escapes(value) if isinstance(value, str) else value


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
