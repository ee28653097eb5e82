"""nanoinfer profile: the files that it writes, the comparison with an earlier profile, and messages."""

import csv
import io
import json
from dataclasses import replace

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


def spread(median, p5, p95):
    return {"wall": median, "wall_p5": p5, "wall_p95": p95}


@pytest.mark.parametrize(
    ("before", "now", "verdict"),
    [
        (spread(100, 95, 110), spread(120, 112, 130), "slower"),
        (spread(120, 112, 130), spread(100, 95, 110), "faster"),
        (spread(100, 95, 110), spread(105, 101, 115), ""),  # the median is within what runs took before
        (spread(100, 95, 110), spread(130, 90, 500), ""),  # runs spread now so far that they took as little as before
        (spread(100, 95, 110), spread(100, 95, 110), ""),
    ],
)
def test_changes_within_the_spread_are_not_marked(profile, before, now, verdict):
    names = {"wall": "microseconds", "wall_p5": "p5", "wall_p95": "p95"}
    step = {names[name]: float(value) for name, value in now.items()}
    calm = {"slow_runs": 0, "cores_lost": 0, "repeat": 50, "total": sum(row.microseconds for row in profile.rows[1:])}
    profile = replace(profile, rows=(replace(profile.rows[0], **step), *profile.rows[1:]), **now, **calm)
    profile = replace(profile, total=calm["total"] + step["microseconds"])
    earlier = json.loads(profile.to_json()) | before
    earlier["rows"][0] |= {names[name]: value for name, value in before.items()}
    changes = changes_since(earlier, profile)
    assert [row.verdict for row in changes.rows] == [verdict] + [""] * (len(profile.rows) - 1)
    assert changes.verdict == verdict and changes.disturbed is None
    assert (f"{verdict} beyond the spread" if verdict else "within the spread") in str(changes)
    busy = changes_since({**earlier, "disturbed": "a busy neighbour"}, profile)
    assert "DISTURBED, and changes mean little: before, a busy neighbour" in str(busy)


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
