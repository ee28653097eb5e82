"""The wheel: its kernels have the same bytes at each build, and its networks the same bits without Numba."""

import json
import os
import subprocess
import sys
import time
import venv
from zipfile import ZipFile

import pytest
from nanoinfer.kernels.jit import cache

from build_backend import backend, kernel_files
from tests.cli.command_line import ROOT
from tests.wheel.fingerprints import FINGERPRINTS

LEVELS = ("x86-64-v4", "x86-64-v3", "aarch64")
PLAIN = ("numpy", "safetensors", "pillow", "rich")  # all that is needed to run what the wheel's kernels compute


def test_object_code_does_not_depend_on_what_was_compiled_before(tmp_path):
    """As little as that: a kernel that calls the system, one that is a product, and one of each for another target."""
    names = ["worker_f32", "elementwise_8_piecewise_f32", "matmul_1x1x8_piecewise_pointwise_f32"]
    known = {name: spec for name, spec in kernel_files.kernels("x86-64-v3").items() if name in names}
    chosen = {"x86-64-v3": known, "aarch64": {"worker_f32": known["worker_f32"]}}
    first = kernel_files.write(tmp_path / "first", chosen, processes=1)
    turned = {level: dict(reversed(chosen[level].items())) for level in reversed(chosen)}
    second = kernel_files.write(tmp_path / "second", turned, processes=2)
    contents = [{path.name: path.read_bytes() for path in paths} for paths in (first, second)]
    assert contents[0] == contents[1] and len(contents[0]) == 2


def test_a_wheel_depends_on_nothing_but_its_files(tmp_path, monkeypatch):
    wheels = []
    for folder, date in (("one", None), ("two", "1700000000"), ("three", "1700000000")):
        tree = tmp_path / folder
        (tree / "nanoinfer").mkdir(parents=True)
        (tree / "x-1.dist-info").mkdir()
        for name in sorted(("nanoinfer/b.py", "nanoinfer/a.py", "x-1.dist-info/RECORD"), reverse=folder == "two"):
            (tree / name).write_text(name)
        if date:
            monkeypatch.setenv("SOURCE_DATE_EPOCH", date)
        wheels.append(tmp_path / f"{folder}.whl")
        backend._write_wheel(tree, wheels[-1])
    contents = [wheel.read_bytes() for wheel in wheels]
    assert contents[1] == contents[2] != contents[0]
    with ZipFile(wheels[0]) as archive:
        record = archive.read("x-1.dist-info/RECORD").decode().splitlines()
        assert archive.namelist() == ["nanoinfer/a.py", "nanoinfer/b.py", "x-1.dist-info/RECORD"]
    assert [row.split(",")[0] for row in record] == archive.namelist() and record[-1] == "x-1.dist-info/RECORD,,"


def test_kernels_may_be_left_out_and_are_none_of_an_editable_install():
    assert backend.get_requires_for_build_editable() == []
    assert backend._arguments({"kernels": "none"}) == []
    if sys.platform == "linux":
        assert "numba" in backend.get_requires_for_build_wheel()[-2]
        assert backend._arguments({"kernels": "aarch64"})[-2:] == ["--levels", "aarch64"]


def built(folder):
    """The one wheel that pip makes of this checkout."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, "."]
    subprocess.run(command, cwd=ROOT, check=True)
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return built(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """A Python that has the wheel and neither Numba nor llvmlite."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    pip = [folder / "bin" / "pip", "install", "-q"]
    subprocess.run([*pip, *PLAIN], check=True)
    subprocess.run([*pip, "--no-deps", wheel], check=True)
    return folder / "bin" / "python"


def run(python, code, folder, **environment):
    """What Python did with `code`; not in the checkout, whose sources it would import."""
    environment = {**os.environ, "NANOINFER_CACHE_DIR": str(folder / "none"), **environment}
    return subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=folder, env=environment)


@pytest.mark.slow
def test_two_builds_give_the_same_bytes(wheel, tmp_path):
    with ZipFile(wheel) as archive:
        sizes = {name: archive.getinfo(f"{backend.OBJECTS}/{name}.kernels").file_size for name in LEVELS}
    print(sizes, wheel.stat().st_size)
    assert sum(sizes.values()) < 8 << 20
    assert built(tmp_path).read_bytes() == wheel.read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="kernels of a wheel are for Linux")
@pytest.mark.parametrize("cpu", ["", "haswell"])
def test_networks_have_the_same_bits_without_a_compiler(python, tmp_path, cpu):
    chosen = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": ""} if cpu else {}
    here = run(sys.executable, FINGERPRINTS, tmp_path, NANOINFER_CACHE_DIR=str(cache.base()))
    done = run(python, FINGERPRINTS, tmp_path, **chosen)
    assert (done.stderr, here.stderr) == ("", "")
    found, origins = json.loads(done.stdout)
    assert (found, origins) == (json.loads(here.stdout)[0], ["wheel"])
    assert not (tmp_path / "none").exists()
    assert "No module named 'numba'" in run(python, "import numba", tmp_path).stderr


@pytest.mark.slow
def test_a_first_prediction(python, tmp_path):
    """Prints how long it takes, with the start of Python: -rP shows it."""
    start = time.perf_counter()
    done = run(python, "from nanoinfer.cli import main; raise SystemExit(main(['predict']))", tmp_path)
    print(f"{time.perf_counter() - start:.2f} s")
    assert (done.returncode, done.stderr) == (0, "") and "digit_9.png" in done.stdout


@pytest.mark.slow
def test_what_the_wheel_lacks_is_one_clear_line(python, tmp_path):
    """The input as a value is not in the set: its stem reads another layout."""
    code = "import numpy, nanoinfer; x = numpy.zeros((1, 3, 96, 96), numpy.float32)"
    code += "; nanoinfer.create_model('digits').values(x, ['input', 'first_conv.conv'])"
    *_, line = run(python, code, tmp_path).stderr.strip().splitlines()
    assert " to be compiled here (stem_" in line and line.endswith("pip install numba llvmlite")
