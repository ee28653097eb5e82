"""bench.archive: every way runs, and its exit code says what was found. No times are judged."""

import re

import pytest

from bench import archive

SMALL = ("--model", "digits", "--images", "24", "--batch-size", "8", "--size", "60", "40")


def test_throughput_prints_all_rates(capsys):
    assert archive.main([*SMALL, "--rounds", "2", "--least", "0"]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"^(\w+) +[\d.]+ images/s$", out, re.MULTILINE) == ["decoding", "network", "whole", "allowed"]
    assert archive.main([*SMALL, "--rounds", "1", "--least", "100"]) == 1


@pytest.mark.skipif(not archive.Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_is_that_of_a_whole_run(capfd):
    assert archive.main([*SMALL, "--memory"]) == 0
    assert re.search(r"24 rows, peak \d+ MiB, limit 600 MiB, exit code 0", capfd.readouterr().out)
