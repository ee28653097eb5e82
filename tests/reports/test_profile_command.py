"""nanoinfer profile: the files that it writes, the comparison with an earlier profile, and messages."""

import csv
import io
import json

import pytest

from nanoinfer import InputError, cli
from nanoinfer.reports.profile_changes import changes_since


@pytest.fixture
def run(capsys):
    """run("digits", ...) -> (exit code, standard output, standard error) of nanoinfer profile."""

    def run(*arguments):
        code = cli.main(["profile", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def test_changes_match_rows_by_layer(profile):
    before = json.loads(profile.to_json())
    before["rows"][0]["microseconds"] *= 2
    before["rows"][1]["kernel"] = "another_f32"
    gone = before["rows"].pop(2)
    before["rows"].append({**gone, "layer": "removed"})
    changes = changes_since(before, profile)
    assert changes.rows[0].change == pytest.approx(-0.5)
    assert (changes.rows[1].kernel_before, changes.rows[1].change) == ("another_f32", 0)
    assert (changes.rows[2].before, changes.rows[2].change) == (None, None)
    assert (changes.rows[-1].layer, changes.rows[-1].now) == ("removed", None)
    assert "wall" in str(changes) and json.loads(changes.to_json())["wall"] == pytest.approx(profile.wall)
    with pytest.raises(InputError, match="threads 3, not 2"):
        changes_since({**before, "threads": 3}, profile)
    with pytest.raises(InputError, match="no profile"):
        changes_since({"rows": [1]}, profile)


def test_profile_command_writes_every_file(run, tmp_path):
    trace, html, before = (tmp_path / name for name in ("trace.json", "report.html", "before.json"))
    size = ("--input-size", 64, 64, "--threads", 2, "--repeat", 2)
    code, out, err = run("digits", *size, "--trace", trace, "--html", html, "--format", "json")
    assert (code, err) == (0, "")
    assert json.loads(out)["input_shape"] == [1, 3, 64, 64] and json.loads(trace.read_text())["traceEvents"]
    assert html.read_text(encoding="utf-8").startswith("<!doctype html>")
    before.write_text(out)
    code, out, err = run("digits", *size, "--compare", before)
    assert (code, err) == (0, "") and "before us" in out and "In run order" in out
    code, out, err = run("digits", *size, "--compare", before, "--format", "csv")
    assert list(csv.DictReader(io.StringIO(out)))[0]["layer"] == "first_conv.relu6"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["no_such_network"], "no_such_network"),
        (["digits", "--input-size", "1", "3", "64", "64", "--batch-size", "2"], "--batch-size"),
        (["digits", "--input-size", "3", "64", "64"], "N C H W"),
        (["digits", "--input-size", "100000000", "100000000"], "choose a smaller one"),
        (["digits", "--batch-size", "10000000000"], "up to 1,000,000,000"),
        (["digits", "--input-size", "1", "4", "64", "64"], "4 channels"),
        (["digits", "--repeat", "0"], "--repeat"),
        (["digits", "--compare", "nowhere.json"], "nowhere.json"),
        (["digits", "--compare", __file__], "not JSON"),
    ],
)
def test_profile_command_refuses_bad_arguments(run, arguments, part):
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1) and part in err
