"""A process that forks while another of its threads compiles: the child can compile, and the parent goes on."""

import os
import sys

import pytest

from tests.jit.processes import output_of, start

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

# A thread compiles without end while this one forks; each child compiles a kernel. Prints how the children ended: a
# child that hangs is ended by its alarm.
FORKS = """
import json, os, random, signal, sys, threading, time
{before}
from nanoinfer.kernels.elementwise import Elementwise
from nanoinfer.kernels.jit import cache, library

cache.read = lambda name: None

def kernel(activation):
    library._addresses.clear()
    library.addresses([Elementwise(8, activation)])

def kernels():
    kernel("gelu")
    time.sleep(0.001)  # a lock that is free for no moment is had by nobody else

def functions():
    import numba
    numba.njit("i8(i8)")(lambda x: x + 1)

def modules():
    import llvmlite.binding as llvm
    llvm.parse_assembly("define i32 @f() {{ ret i32 1 }}").verify()

def compile_all():
    while not done:
        {what}()

done, ends, generator = [], [], random.Random(0)
thread = threading.Thread(target=compile_all)
thread.start()
for number in range({count}):
    time.sleep(generator.random() * {pause})
    child = os.fork()
    if not child:
        signal.alarm(200)
        kernel("piecewise")
        os._exit(0)
    ends.append(os.waitpid(child, 0)[1])
done.append(True)
thread.join()
print(json.dumps(ends))
"""
WHAT = ["kernels", "functions", "modules"]


def ends(folder, what, count, pause=0.5, before=""):
    return output_of(start(FORKS.format(what=what, count=count, pause=pause, before=before), folder), timeout=3000)


@pytest.mark.parametrize("what", WHAT)
def test_child_can_compile_while_a_thread_of_the_parent_does(what, tmp_path):
    assert ends(tmp_path, what, 2) == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("what", WHAT)
def test_fifty_children_of_fifty_can_compile(what, tmp_path):
    assert ends(tmp_path, what, 50) == [0] * 50


@pytest.mark.parametrize(
    "pause", [0, 0.2, *(pytest.param(pause / 10, marks=pytest.mark.slow) for pause in range(1, 9))]
)
@pytest.mark.parametrize("what", ["kernels", "functions"])
def test_fork_amid_the_import_of_numba(what, pause, tmp_path):
    exact = f"time.sleep = lambda _, sleep=time.sleep: sleep({pause})"
    assert ends(tmp_path, what, 1, before=exact) == [0]


def test_fork_in_a_signal_handler_amid_a_compilation(tmp_path):
    """Parent and child both end the compilation that the handler interrupted; also where its caller forks."""
    code = """
import json, os, signal
from nanoinfer.kernels.elementwise import Elementwise
from nanoinfer.kernels.jit import compiler, fork, library

def handler(*_):
    children.append(os.fork())

children, flags = [], compiler.Flags
signal.signal(signal.SIGUSR1, handler)
def interrupt():
    signal.raise_signal(signal.SIGUSR1)
    return flags()
compiler.Flags = interrupt
library.addresses([Elementwise(8, "piecewise")], progress=lambda done, total: children or handler())
if 0 in children:
    os._exit(0)
print(json.dumps([os.waitpid(child, 0)[1] for child in children] + [fork.lock.acquire(blocking=False)]))
"""
    assert output_of(start(code, tmp_path)) == [0, 0, True]


@pytest.mark.skipif(sys.platform != "linux", reason="calls the C library's fork")
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="there Python itself aborts in a child without all its hooks")
def test_child_of_a_fork_in_c_has_a_free_lock(tmp_path):
    """Such as uWSGI's, which runs the hooks of the child alone."""
    code = """
import ctypes, json, os, threading
from nanoinfer.kernels.elementwise import Elementwise
from nanoinfer.kernels.jit import fork, library

locked, ended = threading.Event(), threading.Event()
def hold():
    with fork.lock:
        locked.set()
        ended.wait()
threading.Thread(target=hold).start()
locked.wait()
child = ctypes.PyDLL(None).fork()
if not child:
    ctypes.pythonapi.PyOS_AfterFork_Child()
    library.addresses([Elementwise(8, "piecewise")])
    os._exit(0)
print(json.dumps(os.waitpid(child, 0)[1]))
ended.set()
"""
    assert output_of(start(code, tmp_path)) == 0


def test_exception_while_a_fork_waits_leaves_no_lock_behind(tmp_path):
    """Python prints an exception of a hook and forks; the child finds the lock free."""
    code = """
import json, os, signal, threading, time
from nanoinfer.kernels.jit import fork

def handler(*_):
    raise KeyboardInterrupt
locked, ended = threading.Event(), threading.Event()
def hold():
    with fork.lock:
        locked.set()
        ended.wait()
thread = threading.Thread(target=hold)
thread.start()
locked.wait()
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.2)
child = os.fork()
if not child:
    os._exit(0 if fork.lock.acquire(timeout=100) else 1)
ended.set()
thread.join()
print(json.dumps([os.waitpid(child, 0)[1], fork.lock.acquire(blocking=False), fork._forks.held]))
"""
    assert output_of(start(code, tmp_path)) == [0, True, []]
