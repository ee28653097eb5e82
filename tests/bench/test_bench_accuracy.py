"""bench.accuracy: the bar on small images, for ordinary and for adversarial checkpoints, and how it is judged."""

import pytest

from bench import accuracy
from bench.accuracy import Result, misses, row


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


@pytest.mark.parametrize("kind", [pytest.param("gains*100", marks=pytest.mark.slow), "means*100", "weights/1000"])
def test_errors_of_adversarial_checkpoints(kind):
    assert misses([accuracy.measure("mobilenetv3_small_100", kind, 1, 64)]) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gains*100", "zero-channels", "variances=1e-6", "weights/1000"])
def test_errors_of_wide_networks(kind):
    assert misses([accuracy.measure("resnext50_32x4d", kind, seed, 224) for seed in (1, 2)]) == []


def test_the_table_and_its_exit_code(monkeypatch, capsys):
    for error, code in ((7e-7, 0), (3e-6, 1)):
        monkeypatch.setattr(accuracy, "measure", lambda *_, error=error, **options: result(error=error))
        assert accuracy.main(["--models", "resnet18", "--kinds", "ordinary", "--checkpoints", "2"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert " lanes, nanoinfer " in lines[0] and lines[4].split()[:3] == ["ordinary", "2", "0.70"]
    assert lines[-1].endswith("seed 1: 3.00, seed 1: 3.00, median 3.00")
