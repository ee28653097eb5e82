"""bench.throughput: streams of nanoinfer, counted."""

import json

import numpy as np
import pytest

from bench import throughput
from bench.models import prepare

NAME = "mobilenetv3_small_100"


def test_streams_are_counted_and_right(tmp_path):
    expected = prepare(NAME, tmp_path, [1], onnx=False)
    x = np.load(tmp_path / "input.npy")
    count, logits = throughput.start_nanoinfer(NAME, tmp_path, x, 2)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    calls, seconds = count(0.05)
    assert calls >= 2 and seconds >= 0.05


class Process:
    """A worker that counts as many calls a second as it is told."""

    def __init__(self, command, **_):
        self.engine = command[3]
        self.answers = iter(['"1.0"', *[json.dumps([100 if self.engine == "nanoinfer" else 50, 1.0])] * 9])
        self.stdin = self.stdout = self

    write = flush = close = wait = lambda *_: None

    def readline(self):
        return next(self.answers)


@pytest.mark.parametrize(("error", "code"), [(0, 0), (0.1, 1)])
def test_a_wrong_result_is_an_error(monkeypatch, capsys, error, code):
    def prepared(name, folder, batches, onnx):
        for engine in throughput.ENGINES:
            np.save(folder / f"{engine}.npy", np.array([[1 + error, -2]]))
        return np.array([[1, -2]])

    monkeypatch.setattr(throughput, "prepare", prepared)
    monkeypatch.setattr(throughput.subprocess, "Popen", Process)
    assert throughput.main(["--models", NAME, "--rounds", "3", "--streams", "2"]) == code
    output, errors = capsys.readouterr()
    assert "100.0 images/s  ours/this  1.00" in output and "50.0 images/s  ours/this  2.00" in output
    assert errors.count("has an error of") == 3 * code
