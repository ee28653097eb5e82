"""A process from which AVX-512 is hidden."""

import json
import signal
import subprocess
import sys

import pytest

from bench.hide_avx512 import can_hide
from tests.cli.command_line import ROOT

pytestmark = pytest.mark.skipif(not can_hide(), reason="CPUID cannot be made to fault here")
SEEN = """
import json, threading
import llvmlite.binding as llvm
from bench.hide_avx512 import hide

def seen():
    return sorted(name for name, present in llvm.get_host_cpu_features().items() if present)

before = seen()
hide()
here, other = seen(), []
thread = threading.Thread(target=lambda: other.append(seen()))
thread.start()
thread.join()
print(json.dumps([before, here, *other]))
"""
FAULT = "import ctypes; from bench.hide_avx512 import hide; hide(); ctypes.string_at(8)"


def run(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_cpuid_hides_avx512_and_nothing_else_in_all_threads():
    before, here, other = json.loads(run(SEEN).stdout)
    assert here == other
    assert here == [name for name in before if not name.startswith(("avx512", "amx", "avx10", "evex512"))]


def test_another_fault_ends_the_process():
    assert run(FAULT).returncode == -signal.SIGSEGV
