"""What predict prints, row by row."""

import csv
import io
import json

import pytest

from nanoinfer.cli import predictions
from nanoinfer.cli.predictions import Prediction


def test_json_null_for_nonfinite(capsys):
    item = Prediction(file="a.png", milliseconds=1234.5, top=[("x", 0, float("nan"))])
    predictions.print_json([item])
    assert json.loads(capsys.readouterr().out)[0]["predictions"][0]["probability"] is None
    predictions.print_table([item])
    assert "nan%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "text"), [(0.012345, "0.0123"), (1.005, "1.00"), (12.34, "12.3"), (123.4, "123"), (4567.8, "4568")]
)
def test_three_digits(value, text):
    assert predictions.three_digits(value) == text


@pytest.mark.parametrize("name", ["two\nlines.png", "tab\tand\x1b[2Jescape.png", "\udcff.png"])
def test_control_characters_in_file_names(capsys, name):
    item = Prediction(file=name, milliseconds=1.0, top=[("x", 0, 0.5)])
    predictions.print_table([item])
    _, _, row, *rest = capsys.readouterr().out.splitlines()
    assert row.startswith(ascii(name)[1:-1]) and rest == []
    predictions.print_json([item])
    assert json.loads(capsys.readouterr().out)[0]["file"] == name


def test_csv_keeps_line_breaks_in_file_names(capsys):
    predictions.print_csv([Prediction("two\nlines.png", [("x", 0, 0.5)], 1.0)])
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "file,rank,label,index,probability,milliseconds"
    assert [*csv.reader(io.StringIO(out))][1] == ["two\nlines.png", "1", "x", "0", "0.500000", "1.00"]


def test_table_sets_images_with_several_labels_apart(capsys):
    one, two = [("x", 0, 0.5)], [("x", 0, 0.5), ("y", 1, 0.25)]
    for top, blank in ((one, False), (two, True)):
        predictions.print_table([Prediction("a.png", top, 1.0), Prediction("b.png", top, 1.0)])
        _, _, *rows = capsys.readouterr().out.splitlines()
        assert len(rows) == 2 * len(top) + blank and any(not row.strip() for row in rows) == blank


def test_escapes_reach_neither_csv_nor_table(capsys):
    item = Prediction("a\x1b[2Jb.png", [("label\x9b1m\ttab", 0, 0.5)], 1.0)
    for printer in (predictions.print_csv, predictions.print_table, predictions.print_json):
        printer([item])
        assert not set(capsys.readouterr().out) & set("\x1b\x9b")
    predictions.print_csv([item])
    assert "a\\x1b[2Jb.png,1,label\\x9b1m\ttab," in capsys.readouterr().out
