"""The thread team: any size gives the same bits, callers may be many, parked threads wake, a fork starts afresh."""

import ctypes
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from nanoinfer.kernels import team

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


def test_call_from_within_a_call():
    """A signal handler on the calling thread may call another model, but not the one whose input it would overwrite."""
    model, other = (nanoinfer.create_model("digits", f"random:{seed}", threads=2) for seed in (1, 2))
    x = random_images()
    expected, others, seen = model(x), other(x), []

    def again(*arguments):
        if not seen:
            seen.append(1)
            with pytest.raises(RuntimeError, match="from within"):
                model(x)
            seen.append(other(x))
        return real(*arguments)

    crew = runtime.crew()
    real, crew._lead = crew._lead, again
    try:
        np.testing.assert_array_equal(model(x), expected)
    finally:
        crew._lead = real
    np.testing.assert_array_equal(seen[1], others)
    np.testing.assert_array_equal(model(x), expected)


def bias_program(steps, threads):
    """A program that adds `steps` to every element of its input, a step after the other."""
    net = Builder(48)
    y = net.input
    for number in range(steps):
        y = net.linear(y, f"c{number}", 48)
    weights = {f"c{number}.weight": np.eye(48, dtype=np.float32) for number in range(steps)}
    tensors = {**weights, **{f"c{number}.bias": np.ones(48, np.float32) for number in range(steps)}}
    plan = make_plan(net.finish(y, y), tensors, (7, 48), threads=threads, machine=host())
    return make_program(plan, tensors, PackedWeights()), y.name


class Absent(runtime.Crew):
    """A crew whose workers never come, but for the one that a test sends."""

    def _start(self, workers):
        pass

    def __init__(self, cores):
        super().__init__(cores)
        size = (team.LANES + cores * (team.SEATS + runtime.most_threads() * team.LINE)) // 8
        self.words = np.ctypeslib.as_array((ctypes.c_int64 * size).from_address(self._address))

    def send(self, worker):
        """Let a worker see what there is to do, and come back."""
        self._work(self._address, worker, 0)

    def set(self, **words):
        """Write words of the first lane, by the names of their offsets."""
        for name, value in words.items():
            self.words[(team.LANES + getattr(team, name)) // 8] = value


def test_leader_computes_what_no_worker_claims():
    """The workers never come; one that comes after the end claims nothing and writes nothing."""
    threads = 3
    (added, name), crew = bias_program(4, threads), Absent(threads)
    x = np.random.default_rng(0).standard_normal((7, 48), np.float32)
    for _ in range(3):
        added.bind_input(x)
        within_time(lambda: crew.lead(added.table, threads) or True)
        np.testing.assert_array_equal(added.read_output(name), x + 1 + 1 + 1 + 1)
        added.arena[:] = np.nan
        within_time(lambda: crew.send(1) or True)
        assert np.isnan(added.arena).all()


def test_late_worker_reads_no_job_that_is_over():
    """To a worker that lost its core the last job may seem to go on. Its table is gone: to read it would be a crash."""
    (added, _), crew = bias_program(4, 2), Absent(2)
    for _ in range(2):
        added.bind_input(np.zeros((7, 48), np.float32))
        crew.lead(added.table, 2)
        nowhere = np.full(4, 1 << 46)
        crew.words[(team.LANES + team.JOB) // 8 :][:4] = nowhere
        crew.set(OWNED=1)
        within_time(lambda: crew.send(1) or True)
        crew.set(OWNED=0)


def test_parts_of_a_lane_may_change_from_job_to_job():
    """A part that only an earlier program had must not be claimable in a later one."""
    crew = Absent(4)
    x = np.random.default_rng(0).standard_normal((7, 48), np.float32)
    programs = {parts: bias_program(2, parts) for parts in (2, 3, 4)}
    for parts in (2, 4, 2, 3, 3, 2, 4):
        added, name = programs[parts]
        added.bind_input(x)
        crew.lead(added.table, parts)
        np.testing.assert_array_equal(added.read_output(name), x + 1 + 1)
        lane = crew.words[team.LANES // 8 :]
        assert lane[team.PARTS // 8] == parts and lane[team.OPEN // 8] + 1 == lane[team.NEXT_GROUP // 8]
        claimed = lane[(team.SEATS + team.CLAIMED) // 8 :: team.LINE // 8][:4]
        assert (claimed[:parts] == lane[team.NEXT_GROUP // 8]).all() and (claimed[parts:] < lane[team.OPEN // 8]).all()


@pytest.mark.parametrize("reason", ["one part", "more parts than a lane has", "no lane is free"])
def test_leader_without_a_lane(reason):
    """It computes all parts and touches no lane."""
    parts = {"one part": 1, "more parts than a lane has": runtime.most_threads() + 1, "no lane is free": 2}[reason]
    (added, name), crew = bias_program(3, parts), Absent(2)
    lanes = crew.words[team.LANES // 8 :]
    if reason == "no lane is free":
        lanes[:: len(lanes) // 2] = 1  # they are owned
    before = lanes.copy()
    x = np.random.default_rng(0).standard_normal((7, 48), np.float32)
    added.bind_input(x)
    crew.lead(added.table, parts)
    np.testing.assert_array_equal(added.read_output(name), x + 1 + 1 + 1)
    np.testing.assert_array_equal(lanes, before)


def test_workers_keep_within_the_cores():
    """Worker n works if n and the leaders are no more than the cores."""
    (added, _), crew = bias_program(1, 3), Absent(3)
    added.bind_input(np.zeros((7, 48), np.float32))
    table = added.table.copy()
    crew.lead(table, 3)
    lane, leaders = crew.words[team.LANES // 8 :], team.LEADERS // 8
    for worker, others, works in ((1, 2, True), (2, 2, False), (2, 1, True), (1, 3, False)):
        group = lane[team.OPEN // 8] + 1
        finished = int(lane[team.FINISHED // 8])
        # As a leader leaves them that has opened a group and claimed nothing yet.
        for part in range(3):
            lane[(team.SEATS + part * team.LINE + team.CLAIMED) // 8] = group
        crew.set(OWNED=1, OPEN=group, ROW=0, TARGET=finished + 3)
        crew.words[team.BELL // 8] += 1
        crew.words[leaders] = others
        within_time(lambda worker=worker: crew.send(worker) or True)
        assert lane[team.FINISHED // 8] - finished == (3 if works else 0), (worker, others)
        crew.set(OWNED=0)


ALARMS = """
import random, signal, sys, time
import numpy as np
import nanoinfer

model, other = (nanoinfer.create_model("digits", f"random:{seed}", threads=2) for seed in (1, 2))
x = np.random.default_rng(0).standard_normal((1, 3, 96, 96), np.float32)
expected, others = model(x), other(x)
calls = right = 0

def raise_or_call(*_):
    global calls, right
    if random.random() < 0.5:
        calls, right = calls + 1, right + np.array_equal(other(x), others)
    raise TimeoutError

signal.signal(signal.SIGALRM, raise_or_call)
kept, end = [], time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-4, 2e-3))
        while True:
            model(x)
    except TimeoutError as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        kept = [error]  # a notebook keeps the last traceback
    except RuntimeError:  # raised by `other` in a handler that interrupted another handler
        raise
    assert np.array_equal(model(x), expected)
assert calls == right and calls > 10, (calls, right)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no interval timers here")
@pytest.mark.parametrize("seconds", [3, pytest.param(120, marks=pytest.mark.slow)])
def test_signal_handlers_may_raise_and_call(seconds):
    done = subprocess.run([sys.executable, "-c", ALARMS, str(seconds)], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
