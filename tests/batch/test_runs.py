"""Runs to a file: errors among rows, interrupts and kills, and --resume."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from nanoinfer.batch.journal import Journal
from nanoinfer.batch.rows import About, Row
from nanoinfer.errors import InputError
from tests.batch.mixed import write_images
from tests.cli.command_line import ROOT, SAMPLES, refused

parquet = pytest.importorskip("pyarrow.parquet")
ABOUT = About("predict", "digits", "0123", "resize", 1, "4567")


def command(*arguments):
    return [sys.executable, "-m", "nanoinfer", *map(str, arguments)]


def killed(arguments, partial, rows, sent=signal.SIGKILL):
    """(exit code, standard error) of a command that gets a signal when its partial file has so many rows."""
    with subprocess.Popen(command(*arguments), cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (partial.exists() and partial.read_bytes().count(b"\n") > rows):
            time.sleep(0.002)
        process.send_signal(sent)
        _, err = process.communicate(timeout=300)
    return process.returncode, err


def check_killed_in_the_middle(folder, count, broken, tmp_path):
    """`count` images to Parquet: killed and interrupted on the way, the file is that of a run that was neither."""
    whole, output = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    partial = tmp_path / "out.parquet.partial"
    arguments = ["predict", folder, "--topk", 3, "--batch-size", 8]
    done = subprocess.run(command(*arguments, "-o", whole), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert len([line for line in done.stderr.splitlines() if "warning" not in line]) == broken
    table = parquet.read_table(whole)
    errors = table["error"].to_pylist()
    assert len(errors) == count and sum(error is not None for error in errors) == broken
    assert table["path"].to_pylist() == sorted(table["path"].to_pylist())
    assert all(
        (row is None) == (error is not None) for row, error in zip(table["labels"].to_pylist(), errors, strict=True)
    )

    code, _ = killed([*arguments, "-o", output], partial, count // 4)
    assert code == -signal.SIGKILL and not output.exists()
    with open(partial, "ab") as file:
        file.write(b'{"path": "torn')  # as a full disk or a crash leaves it
    refusal = subprocess.run(command(*arguments, "-o", output), cwd=ROOT, capture_output=True, text=True)
    assert refusal.returncode == 2 and "go on with it by --resume" in refusal.stderr
    code, err = killed([*arguments, "-o", output, "--resume"], partial, count // 2, signal.SIGINT)
    assert code == 130 and not output.exists()
    assert re.search(
        r"nanoinfer: interrupted: \d+ rows are in \S*out.parquet.partial; go on: .*--resume$", err, re.MULTILINE
    )
    before = partial.read_bytes().count(b"\n") - 1
    assert count // 2 <= before < count
    done = subprocess.run(command(*arguments, "-o", output, "--resume"), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and not partial.exists()
    assert output.read_bytes() == whole.read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_killed_runs_go_on_to_the_same_file(mixed, tmp_path):
    check_killed_in_the_middle(mixed, 200, 8, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_five_thousand_images_killed_and_resumed(tmp_path):
    write_images(tmp_path / "images", 5000)
    check_killed_in_the_middle(tmp_path / "images", 5000, 25, tmp_path)


@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "parquet", "arrow"])
def test_formats_hold_the_same_rows(run, mixed, tmp_path, form):
    output = tmp_path / f"out.{form}"
    folder = mixed / "000"
    code, out, err = run("predict", folder, "--topk", 2, "-o", output)
    assert (code, out) == (1, "") and err.count("nanoinfer: ") - err.count("warning") == 4
    expected = json.loads(run("predict", folder, "--topk", 2, "--format", "json")[1])
    assert [*rows_in(output, form)] == [
        (item["file"], [tuple(top.values()) for top in item["predictions"]]) for item in expected
    ]


def rows_in(output, form):
    """(path, [(label, index, probability with six digits), ...]) of the results in a file."""
    if form == "csv":
        import csv

        tops = {}
        for row in csv.DictReader(output.open()):
            if row["error"]:
                assert row["label"] == row["rank"] == ""
                continue
            top = row["label"], int(row["index"]), round(float(row["probability"]), 6)
            tops.setdefault(row["file"], []).append(top)
        yield from tops.items()
        return
    for row in records(output, form):
        if row.get("error"):
            assert row["error"].startswith(row.get("path") or row["file"])
        elif form == "json":
            yield (
                row["file"],
                [(*top[:2], round(top[2], 6)) for top in map(lambda t: (*t.values(),), row["predictions"])],
            )
        else:
            assert row["model"] == "digits" and re.fullmatch("[0-9a-f]{16}", row["weights"])
            values = [round(value, 6) for value in row["probabilities"]]
            yield row["path"], [*zip(row["labels"], row["indices"], values, strict=True)]


def records(output, form):
    if form == "json":
        return json.loads(output.read_text())
    if form == "jsonl":
        return [json.loads(line) for line in output.read_text().splitlines()]
    if form == "parquet":
        return parquet.read_table(output).to_pylist()
    import pyarrow

    return pyarrow.ipc.open_file(output).read_all().to_pylist()


def test_embeddings_in_files_are_those_of_the_model(run, tmp_path):
    import nanoinfer

    expected = nanoinfer.create_model("digits").embed(SAMPLES)
    for form in ("jsonl", "parquet", "arrow"):
        code, out, err = run("embed", *SAMPLES[:2], "none.png", *SAMPLES[2:], "-o", tmp_path / f"e.{form}")
        assert (code, out) == (1, "") and err.count("\n") == 1
        rows = records(tmp_path / f"e.{form}", form)
        assert rows[2]["embedding"] is None and "none.png: no such file" in rows[2]["error"]
        found = np.array([row["embedding"] for row in rows if row["embedding"]], np.float32)
        np.testing.assert_array_equal(found, expected)


def test_unordered_rows_and_any_batch_size_have_the_same_bits(run, mixed, tmp_path):
    tables = []
    for number, options in enumerate((["--batch-size", 1], ["--batch-size", 7], ["--unordered"])):
        run("predict", mixed, "-o", tmp_path / f"{number}.parquet", *options)
        tables.append(parquet.read_table(tmp_path / f"{number}.parquet").sort_by("path"))
    assert tables[0].equals(tables[1]) and tables[0].equals(tables[2])


def test_resume_adds_to_a_whole_file(run, tmp_path):
    for form in ("jsonl", "parquet", "arrow"):
        output, whole = tmp_path / f"o.{form}", tmp_path / f"w.{form}"
        assert run("predict", *SAMPLES, "-o", whole) == (0, "", "")
        assert run("predict", *SAMPLES[:4], "-o", output) == (0, "", "")
        assert run("predict", *SAMPLES, SAMPLES[0], "-o", output, "--resume") == (0, "", "")
        rows = records(output, form)
        assert rows[:10] == records(whole, form) and rows[10] == rows[0] and len(rows) == 11
        refused(run("predict", *SAMPLES, "--topk", 1, "-o", output, "--resume"), "other weights or another --topk")
    run("predict", *SAMPLES, "-o", tmp_path / "o.csv")
    refused(run("predict", *SAMPLES, "-o", tmp_path / "o.csv", "--resume"), "no rows can be added to a .csv file")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 is not enough")
    refused(run("predict", *SAMPLES, "-o", tmp_path / "bad.parquet", "--resume"), "bad.parquet", "damaged")


def test_wrong_resumes_are_refused(run, tmp_path):
    output = tmp_path / "o.jsonl"
    refused(run("predict", SAMPLES[0], "--resume"), "--resume goes on with a file")
    journal = Journal(str(output), "jsonl", ABOUT, False)
    refused(run("predict", SAMPLES[0], "-o", output, "--resume"), "another run writes it")
    journal.close()
    refused(run("predict", SAMPLES[0], "-o", output, "--resume"), "another weights")
    assert (tmp_path / "o.jsonl.partial").exists()
    (tmp_path / "o.jsonl.partial").write_bytes(b"")  # killed before it wrote anything
    assert run("predict", SAMPLES[0], "-o", output, "--resume") == (0, "", "")
    refused(run("predict", SAMPLES[0], "-o", tmp_path), "give --format")
    refused(run("predict", SAMPLES[0], "-o", tmp_path, "--format", "jsonl"), "is no regular file")
    refused(run("predict", SAMPLES[0], "--format", "parquet"), "-o OUT.parquet")
    refused(run("predict", SAMPLES[0], "-o", tmp_path / "o.npy"), "end its name in .json, .jsonl, .csv, .parquet")


def test_a_failed_write_leaves_the_former_file_and_all_rows(tmp_path, monkeypatch):
    output = tmp_path / "o.jsonl"
    output.write_text("former")
    journal = Journal(str(output), "jsonl", ABOUT, False)
    journal.add(Row("a.png", [("x", 0, 0.1 + 0.2)]))
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        journal.finish()
    journal.close()
    assert output.read_text() == "former" and sorted(path.name for path in tmp_path.iterdir()) == [
        "o.jsonl", "o.jsonl.partial",
    ]  # fmt: skip
    monkeypatch.undo()
    journal = Journal(str(output), "jsonl", ABOUT, True)
    assert journal.held == 1 and [*journal.rows()] == [Row("a.png", [("x", 0, 0.1 + 0.2)])]
    journal.finish()
    assert json.loads(output.read_text())["probabilities"] == [0.1 + 0.2]


def test_rows_of_other_weights_are_never_continued(tmp_path):
    Journal(str(tmp_path / "o.csv"), "csv", ABOUT, False).close()
    for field in ("model", "weights", "preprocessing", "labels"):
        with pytest.raises(InputError, match=f"another {field}"):
            Journal(str(tmp_path / "o.csv"), "csv", ABOUT._replace(**{field: "other"}), True)


def test_file_names_that_are_no_text(run, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        (tmp_path / name).write_bytes(SAMPLES[0].read_bytes())
    except (OSError, UnicodeError):
        pytest.skip("the file system takes UTF-8 alone")
    for form in ("jsonl", "csv", "parquet", "arrow"):
        assert run("predict", tmp_path / name, "-o", tmp_path / f"o.{form}")[0] == 0
    assert parquet.read_table(tmp_path / "o.parquet")["path"][0].as_py().endswith("caf\\udce9.png")
