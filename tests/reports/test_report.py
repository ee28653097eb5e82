"""Columns and reports: one declaration, four formats."""

import json
from types import SimpleNamespace

from nanoinfer.reports.report import Column, Report, Table

COLUMNS = (
    Column("Name", "name"),
    Column("us", "time", "{:.1f}", right=True),
    Column(None, "shape"),
    Column("Size", None, lambda row: "x".join(map(str, row.shape))),
)


class Example(Report):
    rows = (
        SimpleNamespace(name="a|b", time=1.25, shape=(1, 3)),
        SimpleNamespace(name="c", time=None, shape=(10, 20)),
    )

    def tables(self):
        return [Table("First", "rows", COLUMNS, self.rows), Table("", None, COLUMNS[:1], self.rows[:1])]

    def figures(self):
        return {"worst": float("inf"), "best": [float("nan"), 1.0]}

    def heading(self):
        return ["one", "two"]


def test_text_aligns_columns_and_parts_tables():
    assert str(Example()).split("\n") == [
        "one", "two", "",
        "First", "",
        "Name   us  Size",
        "----  ---  -----",
        "a|b   1.2  1x3",
        "c       -  10x20", "",
        "Name", "----", "a|b",
    ]  # fmt: skip


def test_json_has_machine_fields_only():
    assert Example().to_dict()["rows"][0] == {"name": "a|b", "time": 1.25, "shape": [1, 3]}
    assert Example().to_dict().keys() == {"worst", "best", "rows"}


def test_json_null_for_infinity_and_nan():
    value = json.loads(Example().to_json())
    assert (value["worst"], value["best"], value["rows"][1]["time"]) == (None, [None, 1.0], None)


def test_csv_is_the_first_table():
    assert Example().to_csv() == "name,time,shape\na|b,1.25,1x3\nc,,10x20"


def test_markdown_escapes_bars_and_aligns_numbers():
    assert Example().to_markdown().split("\n") == [
        "one  ", "two", "",
        "### First", "",
        "| Name | us | Size |",
        "| --- | ---: | --- |",
        "| a\\|b | 1.2 | 1x3 |",
        "| c | - | 10x20 |", "",
        "| Name |", "| --- |", "| a\\|b |",
    ]  # fmt: skip
