"""bench.workers: a table of worker processes, and a model of many machines that follows from it."""

import re

import pytest

from bench import workers


def test_ways_end_with_too_many_threads():
    assert workers.ways(1) == [(1, 1)]
    assert workers.ways(4) == [(1, 1), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1), (4, 4)]


def test_a_table_and_a_model(capsys):
    options = "--model digits --cores 1 --batch-size 2 --images 8 --rounds 2 --size 32 32 --machines 10 --archive 5000"
    assert workers.main(options.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:3] == ["workers", "threads", "images/s"]
    count, threads, rate, _, best, cpu, start = lines[2].replace("x", "").split()
    assert (count, threads) == ("1", "1") and 0 < float(rate) <= float(best) and float(cpu) > 0
    assert lines[3].startswith("model of 10 such machines and 5,000 images")
    seconds = int(re.search(r"= (\d+) s,", lines[4])[1])
    assert seconds == pytest.approx(float(start) + 5000 / (10 * float(rate)), abs=0.6)
