"""nanoinfer benchmark: what it counts, streams side by side with the same bits, and what is refused."""

import json
import threading

import numpy as np
import pytest

import nanoinfer
from nanoinfer.benchmark import Load, measure
from nanoinfer.cli import main

SHAPE = (2, 3, 96, 96)


@pytest.fixture(scope="module")
def model():
    return nanoinfer.create_model("digits", threads=2)


def test_as_many_calls_as_asked(model):
    result = measure(model, SHAPE, Load(iterations=7, duration=None, warmup=0))
    assert (result.count, result.streams, result.threads, result.batch) == (7, 1, 2, 2)
    assert result.minimum <= result.median <= result.p90 <= result.p99
    assert result.images_per_second == pytest.approx(14 / result.seconds)


def test_iterations_are_those_of_all_streams(model):
    result = measure(model, SHAPE, Load(streams=2, iterations=9, duration=None, warmup=0))
    assert result.count == 9 and result.streams == result.threads == 2


def test_duration_ends_it(model):
    result = measure(model, SHAPE, Load(duration=0.05, warmup=0.01))
    assert result.count >= 1 and result.seconds >= 0.05


def test_replicas_share_weights_and_run_side_by_side(model):
    x = np.random.default_rng(0).random(SHAPE, np.float32)
    single = nanoinfer.create_model("digits", threads=1)
    expected, replicas = single(x), [single, single.replica(), single.replica()]
    assert len({id(replica.program(SHAPE).packed) for replica in replicas}) == 1
    assert len({replica.program(SHAPE).arena.ctypes.data for replica in replicas}) == 3
    wrong = []

    def call(replica):
        wrong.extend(n for n in range(50) if not np.array_equal(replica(x), expected))

    threads = [threading.Thread(target=call, args=(replica,)) for replica in replicas]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (Load(streams=3), "3 streams on 2 threads"),
        (Load(duration=None), "needs an end"),
        (Load(streams=0), "0 streams"),
    ],
)
def test_refused(model, load, message):
    with pytest.raises(nanoinfer.InputError, match=message):
        measure(model, SHAPE, load)


def test_a_shape_that_the_network_cannot_take(model):
    with pytest.raises(nanoinfer.InputError, match="shape"):
        measure(model, (1, 4, 96, 96), Load())


def test_command_line(capsys):
    assert main(["benchmark", "digits", "--iterations", "5", "--warmup", "0", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "digits, 1x3x96x96, 1 stream, 1 thread" and lines[1].startswith("count    5 calls")
    options = ["--iterations", "4", "--warmup", "0", "--hint", "throughput", "--threads", "2", "--batch-size", "3"]
    assert main(["benchmark", "digits", *options, "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["streams"], result["threads"], result["batch"], result["count"]) == (2, 2, 3, 4)
    assert main(["benchmark", "digits", "--streams", "3", "--threads", "2"]) == 2
    assert "give each stream a thread" in capsys.readouterr().err
    assert main(["benchmark", "digits", "--warmup", "-1"]) == 2
    assert "number of seconds" in capsys.readouterr().err
