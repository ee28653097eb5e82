"""Who calls a model, and when: threads, executors, processes, signal handlers, an interpreter that exits."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import nanoinfer
from nanoinfer import runtime
from tests.helpers import random_images

SECONDS = 300  # until a process counts as hanging
SETUP = """
import multiprocessing, os, signal, sys, threading, time
import numpy as np
import nanoinfer

x = np.random.default_rng(0).standard_normal((1, 3, 96, 96), np.float32)
"""


def run(code, *arguments, cwd=None):
    """A process that runs SETUP and `code`."""
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", SETUP + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, cwd=cwd)


@pytest.fixture(scope="module")
def jobs():
    """Four models of one and two threads, each with an input and the logits for it."""
    models = [nanoinfer.create_model("digits", f"random:{n}", threads=1 + n % 2) for n in range(4)]
    inputs = [random_images(1, seed=n) for n in range(4)]
    return [(model, x, model(x)) for model, x in zip(models, inputs, strict=True)]


def wrong_calls(jobs, calls):
    """How many of so many calls of these jobs, in turn, give other bits."""
    return sum(not np.array_equal(model(x), y) for model, x, y in (jobs * calls)[:calls])


@pytest.mark.parametrize("calls", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_eight_threads_call_one_model(jobs, calls):
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: wrong_calls(jobs[1:2], calls), range(8))) == 0


@pytest.mark.parametrize("calls", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_four_models_at_once(jobs, calls):
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda job: wrong_calls([job], calls), jobs)) == 0


@pytest.mark.parametrize("calls", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_calls_from_an_event_loop(jobs, calls):
    async def main():
        return await asyncio.gather(*(asyncio.to_thread(wrong_calls, [jobs[n % 4]], 1) for n in range(calls)))

    assert sum(asyncio.run(main())) == 0


def test_two_models_run_side_by_side(monkeypatch):
    """One leader is inside native code while another begins and ends: neither waits for the other."""
    crew = runtime.crew()
    models = [nanoinfer.create_model("digits", f"random:{n}", threads=2) for n in range(2)]
    x, inside, done, real = random_images(), threading.Event(), threading.Event(), crew._lead
    expected = [model(x) for model in models]

    def lead(*arguments):
        if threading.current_thread().name == "first":
            inside.set()
            assert done.wait(SECONDS)
        return real(*arguments)

    monkeypatch.setattr(crew, "_lead", lead)
    results = []
    first = threading.Thread(target=lambda: results.append(models[0](x)), name="first", daemon=True)
    first.start()
    assert inside.wait(SECONDS)
    second = threading.Thread(target=lambda: results.append(models[1](x)), daemon=True)
    second.start()
    second.join(SECONDS)
    assert len(results) == 1
    done.set()
    first.join(SECONDS)
    np.testing.assert_array_equal(results[0], expected[1])
    np.testing.assert_array_equal(results[1], expected[0])


PROCESSES = """
def call(seed):
    return nanoinfer.create_model("digits", f"random:{seed}", threads=2)(x).tobytes()

if __name__ == "__main__":
    serial = [call(seed) for seed in range(2)]
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        assert pool.map(call, [0, 1] * int(sys.argv[2])) == serial * int(sys.argv[2])
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("calls", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_processes(tmp_path, method, calls):
    if sys.platform == "win32" and method != "spawn":
        pytest.skip("there is no fork here")
    (tmp_path / "calls.py").write_text(SETUP + PROCESSES)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", tmp_path / "calls.py", method, str(calls)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert (done.returncode, done.stderr) == (0, "")


EXIT = """
model = nanoinfer.create_model("digits", threads=int(sys.argv[1]))
model(x)

def call():
    while True:
        model(x)

for _ in range(2):
    threading.Thread(target=call, daemon=True).start()
time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("times", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_interpreter_exits_during_a_run(threads, times):
    """Two daemon threads are in the midst of calls."""
    for number in range(times):
        done = run(EXIT, threads, 0.02 + 0.001 * number)
        assert (done.returncode, done.stderr) == (0, "")


INTERRUPTED = """
model = nanoinfer.create_model("digits", threads=2)
expected, right = model(x), 0
main = threading.main_thread().ident
def interrupt(noticed):  # once more where Python drops an exception, in a callback of a weak reference
    time.sleep(0.0005 * int(sys.argv[1]))
    while not noticed.is_set():
        signal.pthread_kill(main, signal.SIGINT)
        noticed.wait(5)
for _ in range(20):
    noticed = threading.Event()
    thread = threading.Thread(target=interrupt, args=[noticed])
    try:
        thread.start()
        while True:
            model(x)
    except KeyboardInterrupt:
        noticed.set()
        thread.join()
        right += np.array_equal(model(x), expected)
assert right == 20
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals cannot be sent here")
@pytest.mark.parametrize("delay", [1, 3])
def test_interrupt_in_the_midst_of_a_run(delay):
    done = run(INTERRUPTED, delay)
    assert (done.returncode, done.stderr) == (0, "")


FIRST_CALL = """
import signal, sys, threading, time
import numpy as np  # not a part of this: NumPy cannot be imported again after an interrupt
noticed = threading.Event()
def interrupt():  # once more where Python drops an exception, in a callback of a weak reference
    time.sleep(float(sys.argv[1]))
    while not noticed.is_set():
        signal.raise_signal(signal.SIGINT)
        noticed.wait(5)
def call():
    import nanoinfer
    return nanoinfer.create_model("digits", threads=2)(np.ones((1, 3, 96, 96), np.float32))
threading.Thread(target=interrupt, daemon=True).start()
try:
    while True:
        call()
except KeyboardInterrupt:
    noticed.set()
assert np.array_equal(call(), call())
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals cannot be sent here")
@pytest.mark.parametrize("count", [6, pytest.param(40, marks=pytest.mark.slow)])
def test_interrupt_in_the_midst_of_the_first_import(count):
    """The user's KeyboardInterrupt comes out, and the next call is right."""
    for number in range(count):
        command = [sys.executable, "-c", FIRST_CALL, str(0.3 * number / count)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        assert (done.returncode, done.stderr) == (0, "")


SERVED = """
import asyncio
import numpy as np
import nanoinfer

model = nanoinfer.create_model("digits", threads=2)
x = np.ones((1, 3, 96, 96), np.float32)
expected = model(x)  # before workers are forked

def wsgi(environment, start):
    start("200 OK", [("Content-Type", "text/plain")])
    return [b"same" if np.array_equal(model(x), expected) else b"other"]

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    same = np.array_equal(await asyncio.to_thread(model, x), expected)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"same" if same else b"other"})
"""
SERVERS = {
    "gunicorn": ["gunicorn", "--preload", "-w", "2", "--threads", "4", "-b", "unix:socket", "served:wsgi"],
    "uvicorn": ["uvicorn", "--uds", "socket", "--lifespan", "off", "--log-level", "warning", "served:asgi"],
}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("server", SERVERS)
def test_web_servers(tmp_path, server):
    """Sixty requests at once, to workers that were forked after the first call, and to threads of an event loop."""
    import socket

    pytest.importorskip(server)
    (tmp_path / "served.py").write_text(SERVED)
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen([sys.executable, "-m", *SERVERS[server]], cwd=tmp_path, stdout=log, stderr=log)
    try:
        end = time.monotonic() + SECONDS
        while not (tmp_path / "socket").exists() and time.monotonic() < end:
            time.sleep(0.1)

        def request(_):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(SECONDS)
                connection.connect(str(tmp_path / "socket"))
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                answer = b""
                while data := connection.recv(4096):
                    answer += data
            return answer.endswith(b"same")

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(request, range(60))), (tmp_path / "log").read_text()
    finally:
        process.terminate()
        process.wait(SECONDS)
    assert "Traceback" not in (tmp_path / "log").read_text()
