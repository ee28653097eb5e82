"""bench.tune: what it tries is in the table, a faster value is taken, other bits end the run. No times are judged."""

import numpy as np
import pytest

from bench import tune
from nanoinfer.machine import Tuning, host

FAST = ("--models", "digits", "--threads", "1", "--rounds", "1")


def test_candidates_are_fields_of_the_table():
    assert set(tune.CANDIDATES) <= set(Tuning._fields)
    for field, values in tune.CANDIDATES.items():
        assert all(type(value) is type(getattr(Tuning(), field)) for value in values), field


def test_tune_prints_every_value(monkeypatch, capsys):
    monkeypatch.setattr(tune, "SECONDS", 1e-4)
    assert tune.main([*FAST, "--fields", "grouped_mr", "depthwise_mr"]) == 0
    lines = capsys.readouterr().out.splitlines()
    tried = [line.split()[1] for line in lines if line.startswith("grouped_mr")]
    assert tried[0] == tried[1] and set(map(int, tried)) == {host().tuning.grouped_mr, *tune.CANDIDATES["grouped_mr"]}


@pytest.mark.parametrize("gain, noise, taken", [(1.1, 1.0, True), (1.004, 1.0, False), (1.1, 1.06, False)])
def test_a_value_is_taken_if_it_is_faster_than_noise(monkeypatch, gain, noise, taken):
    def ratios(case, tunings, machine, rounds):
        return [1.0, noise, *(gain if tuning.strassen_unit == 6 else 0.9 for tuning in tunings[2:])]

    monkeypatch.setattr(tune, "ratios", ratios)
    best = tune.tune([None], ["strassen_unit"], host(), 1)
    assert (best.strassen_unit == 6) == taken


def test_other_bits_end_the_run(monkeypatch):
    (case,) = tune.cases(["digits"], [1], [1])
    calls = iter([np.zeros(1), np.ones(1)])
    monkeypatch.setattr(type(case.model), "__call__", lambda model, x: next(calls))
    with pytest.raises(SystemExit, match="changes bits"):
        tune.ratios(case, [host().tuning] * 2, host(), 1)
