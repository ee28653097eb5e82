"""`nanoinfer doctor` as a process: on this CPU, on others, with broken caches, without packages."""

import json
import os
import platform
import stat
import subprocess
import sys

import pytest
from nanoinfer.kernels.jit.levels import level

from nanoinfer.machine import host
from tests.jit.test_executable_memory import NO_MEMORY, REFUSE_GAIN

DOCTOR = """
import sys
{before}
from nanoinfer.doctor import engine
{tested}
from nanoinfer.cli import main
sys.exit(main(["doctor", {arguments}]))
"""
# Where a test is about other parts: no measurement, and these networks.
TESTED = "engine.speed, engine.SELF_TEST = (lambda facts, threads: ()), {}"


def doctor(*arguments, before="", networks=("digits",), **environment):
    """(exit code, standard output, standard error) of the command, or with `networks` of a shorter one.

    A variable that is None is not set.
    """
    tested = TESTED.format(networks) if networks is not None else ""
    environment = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
    code = DOCTOR.format(before=before, tested=tested, arguments=", ".join(map(repr, arguments)))
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout, done.stderr


def report(**options):
    """(exit code, the JSON) of a run that writes nothing to standard error."""
    code, out, error = doctor("--json", **options)
    assert not error
    return code, json.loads(out)


def test_all_is_well_here():
    code, out, error = doctor("--threads", "1", networks=None)
    assert (code, error) == (0, ""), out
    for line in ("software", "because                  --threads", "digits right", "nothing is wrong"):
        assert line in out
    report()  # compiles what the cache lacks for more threads
    code, found = report()
    assert code == 0 and found["healthy"] and found["problems"] == []
    assert found["self_test"]["kernels_from"] == {"cache": sum(found["self_test"]["kernels_from"].values())}
    assert found["target"]["lanes"] == host().lanes


TARGETS = [("skylake-avx512", 16, "AVX-512"), ("haswell", 8, "AVX2"), ("x86-64", 4, "SSE")]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names of CPUs of x86-64")
@pytest.mark.parametrize("cpu, lanes, instructions", TARGETS)
def test_forced_targets(cpu, lanes, instructions):
    if lanes > host().lanes:
        pytest.skip(f"the machine has {host().lanes} lanes")
    code, found = report(NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES="")
    assert (code, found["problems"]) == (0, [])
    assert (found["target"]["lanes"], found["target"]["instructions"]) == (lanes, instructions)
    assert found["target"]["because"] == f"NUMBA_CPU_NAME={cpu} NUMBA_CPU_FEATURES= in the environment"
    assert found["self_test"]["networks"] == {"digits": "right"}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="LLVM for x86-64 aborts")
def test_a_crash_in_native_code_leaves_the_sections_before_it():
    code, out, error = doctor(NUMBA_CPU_NAME="nonsense", NUMBA_CPU_FEATURES="")
    assert code and "LLVM ERROR" in error and "wrong" not in out
    assert out.startswith("software\n") and out.rstrip().splitlines()[-1].startswith("  load ")


def test_a_cache_that_is_not_there_yet(tmp_path):
    code, found = report(NANOINFER_CACHE_DIR=str(tmp_path / "none"))
    cache = found["kernel_cache"]
    asked = level() is None  # LLVM, of this CPU's vectors, which the cache then keeps
    assert code == 0 and (cache["trusted"], cache["writable"], cache["exists"]) == (True, True, asked)
    assert found["self_test"]["kernels_from"].keys() == {"compiler"}


@pytest.mark.skipif(os.name != "posix", reason="permissions as in POSIX")
def test_a_cache_that_others_can_write_to(tmp_path):
    tmp_path.chmod(tmp_path.stat().st_mode | stat.S_IWOTH)
    code, found = report(networks=(), NANOINFER_CACHE_DIR=str(tmp_path))
    assert code == 1 and found["kernel_cache"]["trusted"] is False
    [problem] = found["problems"]
    assert f"no kernel cache in {tmp_path} (others can write to it" in problem and "chmod go-w" in problem


def test_a_user_without_home():
    before = "import os\nos.path.expanduser = lambda path: path"
    code, found = report(before=before, networks=(), NANOINFER_CACHE_DIR=None, XDG_CACHE_HOME=None)
    assert code == 1 and found["kernel_cache"]["folder"] is None
    [problem] = found["problems"]
    assert "this user has no home folder" in problem and "set NANOINFER_CACHE_DIR" in problem


@pytest.mark.parametrize("package", ["numpy", "numba", "llvmlite", "safetensors", "PIL", "rich"])
def test_a_package_that_is_incomplete(package):
    code, found = report(before=f"sys.modules['{package}'] = None")
    [problem] = found["problems"]
    assert code == 1 and problem.startswith(f"{package.replace('PIL', 'pillow')} ")
    assert "is incomplete; run 'pip install --force-reinstall" in problem


# As if neither were installed: no files, and no metadata.
NO_COMPILER = """
import importlib.metadata as metadata
known = metadata.version
def version(package):
    if package in ("numba", "llvmlite"):
        raise metadata.PackageNotFoundError(package)
    return known(package)
metadata.version = version
sys.modules["numba"] = sys.modules["llvmlite"] = None
import nanoinfer.kernels.jit.target as target
target.find_spec = lambda package: None
"""


def test_without_compiler_and_kernels(tmp_path):
    code, found = report(before=NO_COMPILER, NANOINFER_CACHE_DIR=str(tmp_path))
    assert code == 1 and found["software"]["numba"] is None
    line = "kernels have to be compiled here, and the compiler is not installed; run 'pip install numba llvmlite'"
    assert found["problems"] == [line]


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="as Linux on x86-64 does")
@pytest.mark.parametrize("restriction, wrong", [(REFUSE_GAIN, False), (NO_MEMORY, True)])
def test_restricted_executable_memory(restriction, wrong):
    code, out, error = doctor("--json", before=restriction)
    if "AssertionError" in error:
        pytest.skip(error.splitlines()[-1])
    found = json.loads(out)
    assert code == wrong and found["executable_memory"]["protected"] != "yes"
    assert found["executable_memory"]["compiler"].startswith("refused by this system")
    assert ["refuses executable memory" in line for line in found["problems"]] == [True] * wrong
