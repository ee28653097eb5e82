"""bench.accuracy: the bar on small images, for ordinary and for adversarial checkpoints, and how it is judged."""

import pytest

from bench import accuracy
from bench.accuracy import KINDS, Result, misses, row

SMALL = {"mobilenetv3_small_100": 64, "resnext50_32x4d": 128}  # sides at which Strassen's scheme has layers


def result(kind="ordinary", error=1e-6, torch_error=1e-6, seed=1):
    return Result("net", kind, seed, error, torch_error, torch_error)


def test_what_misses_the_bar():
    assert misses([result(error=7e-7)] * 3) == []
    assert misses([result(error=9e-7)] * 3) == ["median 0.90"]
    assert misses([result("gains*100", error=9e-7)] * 3) == []
    assert misses([result("gains*100", error=2.5e-6, seed=5), result("gains*100")]) == ["seed 5: 2.50"]
    assert misses([result("gains*100", error=float("nan"))]) == ["seed 1: nan"]
    assert misses([result("gains*100", error=1e-9, torch_error=0)]) == ["seed 1: inf"]
    assert misses([result("gains*100", error=0, torch_error=0)]) == []


def test_what_torch_cannot_compute_does_not_count():
    for torch_error in (2e-3, float("nan")):
        results = [result(error=1, torch_error=torch_error)]
        assert misses(results) == [] and "too large" in row(results)


@pytest.mark.parametrize("kind", ["gains*100", "means*100"])
@pytest.mark.parametrize("name", SMALL)
def test_errors_of_adversarial_checkpoints(name, kind):
    assert misses([accuracy.measure(name, kind, 1, SMALL[name])]) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SMALL)
def test_errors_of_checkpoints(name, kind):
    results = [accuracy.measure(name, kind, seed, SMALL[name]) for seed in range(2, 6)]
    assert not [result for result in results if result.counts and result.ratio > 2 * max(1, result.torch_ratio)]


def test_the_table_and_its_exit_code(monkeypatch, capsys):
    for error, code in ((7e-7, 0), (3e-6, 1)):
        monkeypatch.setattr(accuracy, "measure", lambda *_, error=error, **options: result(error=error))
        assert accuracy.main(["--models", "resnet18", "--kinds", "ordinary", "--checkpoints", "2"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert " lanes, nanoinfer " in lines[0] and lines[3].split()[:3] == ["ordinary", "2", "0.70"]
    assert lines[-1].endswith("seed 1: 3.00, seed 1: 3.00, median 3.00")
