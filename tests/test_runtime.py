"""The thread team: any size gives the same bits, callers may be many, parked threads wake, a fork starts afresh."""

import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import nanoinfer
from nanoinfer import runtime
from nanoinfer.graph import Builder
from nanoinfer.lowering.layout import Packed
from nanoinfer.plan.program import make_program

SECONDS = 60  # until a call counts as hanging


@pytest.fixture(scope="module")
def model():
    return nanoinfer.create_model("digits", threads=2)


def images(model, count, seed=0):
    size = model.architecture.preprocessing.crop
    return np.random.default_rng(seed).standard_normal((count, 3, *size), np.float32)


def finish(function):
    """What `function` returns; a failure, and no hanging test run, if a thread waits for ever."""
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
        x = images(one, count)
        expected = one(x)
        for _ in range(5):
            np.testing.assert_array_equal(finish(lambda x=x: many(x)), expected)


def test_calls_from_many_python_threads(model):
    """Eight callers of two models that share a team, with inputs of two shapes."""
    other = nanoinfer.create_model("digits", "random:1", threads=2)
    jobs = [(network, images(model, 1 + n % 2, n)) for n in range(8) for network in (model, other)]
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

    assert finish(together) == [True] * 8


def test_calls_from_many_python_threads_on_teams_of_their_own():
    models = [nanoinfer.create_model("digits", threads=threads) for threads in (1, 2, 3)]
    x = images(models[0], 1)
    expected = models[0](x)

    def together():
        with ThreadPoolExecutor(6) as pool:
            return list(pool.map(lambda n: np.array_equal(models[n % 3](x), expected), range(60)))

    assert all(finish(together))


def test_parked_threads_wake(model):
    """Sleeps around the time after which a thread parks: a lost wake-up would hang."""
    x, generator = images(model, 1), random.Random(0)
    expected = model(x)

    def runs():
        for pause in [0.05] * 5 + [generator.uniform(0, 0.003) for _ in range(200)]:
            time.sleep(pause)
            if not np.array_equal(model(x), expected):
                return False
        return True

    assert finish(runs)


def test_waiting_threads_leave_the_cores_alone(model):
    """A while after the last run nothing spins any more."""
    model(images(model, 1))
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
def test_fork_after_use():
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert (done.returncode, done.stderr) == (0, "")


def test_exit_while_threads_wait():
    """Followers still spin in native code when the interpreter goes down: nothing of theirs may be gone by then."""
    code = "import numpy, nanoinfer; nanoinfer.create_model('digits', threads=8)(numpy.zeros((1, 3, 96, 96), 'f'))"
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Sets environment, affinity and cgroups, as {file: content} and the process's own; returns the team's size."""
    monkeypatch.setattr(runtime, "CGROUPS", tmp_path)
    monkeypatch.setattr(runtime, "OWN_CGROUPS", tmp_path / "own")

    def size(cores=8, quotas=None, own="0::/\n", **environment):
        for variable in ("NANOINFER_NUM_THREADS", "OMP_NUM_THREADS"):
            monkeypatch.delenv(variable, raising=False)
        for variable, value in environment.items():
            monkeypatch.setenv(f"{variable}_NUM_THREADS", value)

        for name, content in {"own": own, **(quotas or {})}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        monkeypatch.setattr(runtime.os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
        return runtime.default_threads()

    return size


def test_team_size_from_the_environment(machine):
    assert machine(NANOINFER="3", OMP="5") == 3
    assert machine(OMP="5") == 5
    assert machine(OMP="4,2") == 4  # OpenMP's list, one size for each level of nesting
    assert machine(OMP=" 6 ") == 6
    assert machine(NANOINFER="", OMP="5") == 5
    for nonsense in ("", "0", "-1", "many", "2.5"):
        assert machine(OMP=nonsense) == 8


@pytest.mark.parametrize("value", ["0", "-1", "many", "2.5"])
def test_a_team_size_that_is_none_is_an_error(machine, value):
    with pytest.raises(nanoinfer.InputError, match=f"NANOINFER_NUM_THREADS='{value}': set it to a whole number"):
        machine(NANOINFER=value, OMP="5")


def test_team_size_from_affinity_and_quota(machine):
    assert machine(cores=3) == 3
    for cores, quota, size in (
        (8, "max 100000\n", 8), (8, "200000 100000\n", 2), (8, "150000 100000\n", 2), (8, "1000 100000\n", 1),
        (2, "400000 100000\n", 2), (2, "strange\n", 2),
    ):  # fmt: skip
        assert machine(cores, {"cpu.max": quota}) == size


def test_team_size_from_the_quotas_of_nested_groups(machine):
    """The least of the process's own group and of those above it, in both versions of cgroups."""
    assert machine(8, {"a/b/cpu.max": "300000 100000\n"}, "0::/a/b\n") == 3
    assert machine(8, {"a/cpu.max": "200000 100000\n"}, "0::/a/b\n") == 2
    assert machine(8, {"c/cpu.max": "100000 100000\n"}, "0::/a/b\n") == 2
    first = "5:memory:/m\n4:cpu,cpuacct:/old\n"
    assert machine(8, {"cpu/old/cpu.cfs_quota_us": "500000\n", "cpu/old/cpu.cfs_period_us": "100000\n"}, first) == 5
    assert machine(8, {"cpu/old/cpu.cfs_quota_us": "-1\n"}, first) == 8


def test_argument_beats_the_environment(monkeypatch):
    monkeypatch.setenv("NANOINFER_NUM_THREADS", "3")
    assert nanoinfer.create_model("digits").threads == 3
    assert nanoinfer.create_model("digits", threads=2).threads == 2


@pytest.mark.parametrize("threads", [1, 3])
def test_bits_do_not_depend_on_the_callers_floating_point_mode(threads):
    """torch.set_flush_denormal changes the calling thread's mode and no other's."""
    import torch

    net = Builder(48)
    y = net.linear(net.input, "c", 48)
    tensors = {"c.weight": np.eye(48, dtype=np.float32), "c.bias": np.zeros(48, np.float32)}
    x = np.full((4, 48), 1e-40, np.float32)
    program = make_program(net.finish(y, y), tensors, x.shape, threads, Packed())
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush denormals")
    try:
        program.take(x)
        runtime.team(threads).run(program.table)
        assert float(np.float32(1e-40)) == 0.0  # still the caller's mode
    finally:
        torch.set_flush_denormal(False)
    np.testing.assert_array_equal(program.give(y.name), x)


def test_a_call_from_within_a_call_is_refused():
    """A signal handler on the calling thread would otherwise change the input under its feet, or wait for ever."""
    model, other = (nanoinfer.create_model("digits", f"random:{seed}", threads=2) for seed in (1, 2))
    x = np.random.default_rng(0).standard_normal((1, 3, 96, 96), np.float32)
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
