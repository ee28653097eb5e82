"""The thread team: any size gives the same bits, callers may be many, parked threads wake, a fork starts afresh."""

import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import nanoinfer
from nanoinfer import runtime
from nanoinfer.graph import Builder
from nanoinfer.lowering.packed import PackedWeights
from nanoinfer.machine import host
from nanoinfer.plan import make_plan, make_program
from tests.helpers import random_images

SECONDS = 60  # until a call counts as hanging


@pytest.fixture(scope="module")
def model():
    """The digits network on two threads."""
    return nanoinfer.create_model("digits", threads=2)


def within_time(function):
    """What `function` returns; an AssertionError after SECONDS, so that a lost wake-up does not hang the suite."""
    box = []
    thread = threading.Thread(target=lambda: box.append(function()), daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert box, "the call raised" if not thread.is_alive() else "the call hangs"
    return box[0]


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_same_bits_for_any_number_of_threads(threads):
    one, many = (nanoinfer.create_model("digits", threads=n) for n in (1, threads))
    for count in (1, 3):
        x = random_images(count)
        expected = one(x)
        for _ in range(5):
            np.testing.assert_array_equal(within_time(lambda x=x: many(x)), expected)


def test_calls_from_many_python_threads(model):
    """Eight callers of two models that share a team, with inputs of two shapes."""
    other = nanoinfer.create_model("digits", "random:1", threads=2)
    jobs = [(network, random_images(1 + n % 2, seed=n)) for n in range(8) for network in (model, other)]
    expected = [network(x) for network, x in jobs]
    assert len({y.tobytes() for y in expected}) == len(jobs)

    def work(number):
        order = list(range(len(jobs)))
        random.Random(number).shuffle(order)
        for job in order * 3:
            network, x = jobs[job]
            if not np.array_equal(network(x), expected[job]):
                return False
        return True

    def together():
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(work, range(8)))

    assert within_time(together) == [True] * 8


def test_calls_from_many_python_threads_on_teams_of_several_sizes():
    models = [nanoinfer.create_model("digits", threads=threads) for threads in (1, 2, 3)]
    x = random_images()
    expected = models[0](x)

    def together():
        with ThreadPoolExecutor(6) as pool:
            return list(pool.map(lambda n: np.array_equal(models[n % 3](x), expected), range(60)))

    assert all(within_time(together))


def test_parked_threads_wake(model):
    """The pauses end around the time at which a thread parks: a lost wake-up would hang."""
    x, generator = random_images(), random.Random(0)
    expected = model(x)

    def runs():
        for pause in [0.05] * 5 + [generator.uniform(0, 0.003) for _ in range(200)]:
            time.sleep(pause)
            if not np.array_equal(model(x), expected):
                return False
        return True

    assert within_time(runs)


def test_idle_team_uses_no_cpu_time(model):
    """The threads of a team stop spinning soon after the last run."""
    model(random_images())
    time.sleep(0.2)
    start = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - start < 0.05


FORK = """
import os, sys
import numpy as np
import nanoinfer

model = nanoinfer.create_model("digits", threads=2)
x = np.random.default_rng(0).standard_normal((1, 3, *model.architecture.preprocessing.crop), np.float32)
expected = model(x)
for generation in range(2):  # the second time the child forks
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        same = np.array_equal(model(x), expected)
        os._exit(status or not same)
    if not np.array_equal(model(x), expected):
        os._exit(3)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(runtime.os, "fork"), reason="there is no fork here")
def test_forked_children_can_call_the_model():
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert (done.returncode, done.stderr) == (0, "")


def test_interpreter_exits_while_threads_wait():
    """Worker threads still spin in native code at interpreter shutdown, so that their memory must outlive it."""
    code = "import numpy, nanoinfer; nanoinfer.create_model('digits', threads=8)(numpy.zeros((1, 3, 96, 96), 'f'))"
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("threads", [1, 3])
def test_bits_do_not_depend_on_the_callers_floating_point_mode(threads):
    """torch.set_flush_denormal changes the calling thread's mode and no other's."""
    net = Builder(48)
    y = net.linear(net.input, "c", 48)
    tensors = {"c.weight": np.eye(48, dtype=np.float32), "c.bias": np.zeros(48, np.float32)}
    x = np.full((4, 48), 1e-40, np.float32)
    plan = make_plan(net.finish(y, y), tensors, x.shape, threads=threads, machine=host())
    program = make_program(plan, tensors, PackedWeights())
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush denormals")
    try:
        program.bind_input(x)
        runtime.team(threads).run(program.table)
        assert float(np.float32(1e-40)) == 0.0  # the caller's mode is still set
    finally:
        torch.set_flush_denormal(False)
    np.testing.assert_array_equal(program.read_output(y.name), x)


def test_call_from_within_a_call_is_refused():
    """A signal handler on the calling thread would otherwise overwrite the input of the outer call or wait for ever."""
    model, other = (nanoinfer.create_model("digits", f"random:{seed}", threads=2) for seed in (1, 2))
    x = random_images()
    expected, seen = model(x), []
    other(x)

    def again(team, table, *arguments):
        for network in (model, other):
            with pytest.raises(RuntimeError, match="from within"):
                network(x)
            seen.append(network)
        return real(team, table, *arguments)

    team = runtime.team(2)
    real, team._lead = team._lead, again
    try:
        np.testing.assert_array_equal(model(x), expected)
    finally:
        team._lead = real
    assert seen == [model, other]
    np.testing.assert_array_equal(model(x), expected)
