"""The command line as a process: consoles, pipes, and what commands import."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.cli.command_line import ROOT, process


def test_narrow_and_ascii_consoles_show_whole_rows():
    for environment in ({"COLUMNS": "40"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "cp1252"}):
        result = process("models", "mobilenetv2_*", env={**os.environ, **environment})
        assert (result.returncode, result.stderr) == (0, "")
        assert "MobileNetV2 of the paper walkthrough, any width and input size" in result.stdout


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_closed_pipe_is_quiet():
    command = f"{sys.executable} -m nanoinfer models | true"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert result.stderr == ""


def test_predict_recognises_sample_digits():
    result = process("predict", "--format", "json")
    assert (result.returncode, result.stderr) == (0, "")
    items = json.loads(result.stdout)
    assert len(items) == 10
    right = [item["file"].endswith(f"digit_{item['predictions'][0]['label']}.png") for item in items]
    assert sum(right) >= 9


def test_commands_import_only_what_they_need():
    process("predict")  # so that the kernels are compiled
    script = "import sys; from nanoinfer.cli import main; assert main({}) == 0; print(sorted(sys.modules))"
    for arguments, absent in (
        (["predict", "--format", "json"], {"numba", "torch", "rich"}),
        (["predict"], {"numba", "torch", "rich.progress"}),
        (["models"], {"numba", "llvmlite", "torch", "PIL"}),
    ):
        result = subprocess.run(
            [sys.executable, "-c", script.format(arguments)], capture_output=True, text=True, cwd=ROOT, timeout=300
        )
        assert result.returncode == 0, result.stderr
        imported = set(re.findall(r"'([\w.]+)'", result.stdout.splitlines()[-1]))
        assert not imported & absent
