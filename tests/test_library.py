"""The cache of compiled kernels: a warm start compiles nothing, a broken cache changes no result."""

import gc
import json
import math
import os
import platform
import shutil
import stat
import struct
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from nanoinfer.kernels.jit import cache as files
from nanoinfer.kernels.jit import elf as linking
from nanoinfer.kernels.jit import library

from nanoinfer.machine import target

# One linear layer with GELU: a few kernels. Prints what the tests ask about, as JSON.
SMALL = """
import hashlib, json, sys, warnings
import numpy as np
from nanoinfer import runtime
from nanoinfer.plan import program as plan
from nanoinfer.graph import Builder
from nanoinfer.lowering.layout import Packed

{before}
builder = Builder(40)
value = builder.activation(builder.linear(builder.input, "c", 50), "gelu", "a")
generator, packed = np.random.default_rng(0), Packed()
tensors = {{name: generator.standard_normal(shape, np.float32) for name, shape in builder.parameters.items()}}
x = generator.standard_normal((6, 40), np.float32)
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    program = plan.make_program(builder.finish(value, value), tensors, x.shape, 1, packed)
    program.take(x)
    runtime.team(1).run(program.table)
print(json.dumps(dict(
    bits=hashlib.sha256(program.give("a").tobytes()).hexdigest(), compiled="numba" in sys.modules,
    warnings=[[item.category.__name__, str(item.message)] for item in seen],
)))
"""
DIGITS = """
import hashlib, json, sys
import numpy as np
import nanoinfer
from nanoinfer.machine import target

model = nanoinfer.create_model("digits", threads=2)
x = np.random.default_rng(0).standard_normal((1, 3, *model.architecture.preprocessing.crop), np.float32)
print(json.dumps(dict(lanes=target.host().lanes, bits=hashlib.sha256(model(x).tobytes()).hexdigest())))
"""


def start(code, cache, **environment):
    environment = {**os.environ, "NANOINFER_CACHE_DIR": str(cache), **environment}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True, env=environment)


def result(process):
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return json.loads(out)


def small(cache, before=""):
    return result(start(SMALL.format(before=before), cache))


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """(a cache folder that a first process has filled, what that process printed)."""
    cache = tmp_path_factory.mktemp("filled") / "cache"
    return cache, small(cache)


@pytest.fixture
def copied(filled, tmp_path):
    """A copy of that folder, its files, and the right bits."""
    shutil.copytree(filled[0], tmp_path / "cache")
    return tmp_path / "cache", kernel_files(tmp_path / "cache"), filled[1]["bits"]


def kernel_files(cache):
    return sorted(path for path in cache.rglob("*_f32"))


def test_first_process_compiles_and_the_second_does_not(filled):
    cache, first = filled
    assert first["compiled"] and first["warnings"] == []
    (folder,) = cache.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    names = {path.name for path in folder.iterdir()} - {path.name for path in kernel_files(cache)}
    assert len(kernel_files(cache)) >= 3 and names == {"target"}  # and no temporary file is left
    second = small(cache)
    assert second == {**first, "compiled": False}


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="elsewhere LLVM loads kernels")
def test_warm_process_loads_kernels_without_llvm(filled):
    cache, first = filled
    seen = small(cache, "sys.modules['llvmlite.binding'] = None  # an import of it fails")
    assert seen == {**first, "compiled": False}


def test_llvm_loads_the_same_kernels(filled):
    cache, first = filled
    before = "from nanoinfer.kernels.jit import elf\nelf.load = lambda objects: None"
    assert small(cache, before) == {**first, "compiled": False}


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="ELF for x86-64")
def test_linking_refuses_what_it_does_not_know(filled):
    specification = ("elementwise", 16, "gelu")
    symbol, code = library._compile([specification])[specification]
    assert len(linking.load([(symbol, code)])) == 1
    for broken in (b"", b"MZ", code[:70], code[:18] + b"\xb7" + code[19:], code[: len(code) // 2]):
        assert linking.load([(symbol, broken)]) is None
    assert linking.load([("another", code)]) is None
    relocations = next(section for section in linking._Object(code).sections if section[0] == linking.RELA)
    kind = relocations[2] + 8  # the low word of its second field
    assert struct.unpack_from("<I", code, kind) == (linking.ABSOLUTE64,)
    assert linking.load([(symbol, code[:kind] + struct.pack("<I", 2) + code[kind + 4 :])]) is None


PREDICT = """
import runpy, sys
sys.argv = ["nanoinfer", "predict", "--threads", "2", "--format", "csv"]
try:
    runpy.run_module("nanoinfer", run_name="__main__")
except SystemExit as end:
    assert not end.code
print("numba" in sys.modules, file=sys.stderr)
"""


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """(a cache folder, what the first `nanoinfer predict` wrote that filled it)."""
    cache = tmp_path_factory.mktemp("predicted")
    return cache, start(PREDICT, cache).communicate(timeout=300)


def test_warm_predict_imports_no_numba(predicted):
    cache, first = predicted
    runs = [first, start(PREDICT, cache).communicate(timeout=300)]
    assert [error.strip() for _, error in runs] == ["True", "False"]
    drop_time = [[line.rsplit(",", 1)[0] for line in out.splitlines()] for out, _ in runs]
    assert drop_time[0] == drop_time[1] and len(drop_time[0]) > 10


def test_broken_files_are_compiled_again(copied):
    cache, files, bits = copied
    sound = {path: path.read_bytes() for path in files}
    for number, path in enumerate(files):
        content = bytearray(sound[path])
        if number % 3 == 0:
            content = content[: len(content) // 2]
        elif number % 3 == 1:
            content[len(content) // 2] ^= 0x10
        else:
            content = b""
        path.write_bytes(content)
    again = small(cache)
    assert (again["bits"], again["compiled"], again["warnings"]) == (bits, True, [])
    assert small(cache) == {"bits": bits, "compiled": False, "warnings": []}


@pytest.mark.parametrize("place", ["first byte", "checksum", "checksum, no text", "symbol", "no line ends"])
def test_broken_head_is_noticed(copied, place):
    cache, files, bits = copied
    path = next(path for path in files if path.name.startswith("matmul"))
    content = bytearray(path.read_bytes())
    checksum = content.index(b"\n") + 1
    symbol = content.index(b"\n", checksum) + 1
    if place == "no line ends":
        content = content.replace(b"\n", b" ")
    else:
        at = {"first byte": 0, "symbol": symbol}.get(place, checksum)
        content[at] = 0xFF if "text" in place else content[at] ^ 1
    path.write_bytes(content)
    assert small(cache) == {"bits": bits, "compiled": True, "warnings": []}


def assert_one_warning(seen, bits):
    assert (seen["bits"], seen["compiled"]) == (bits, True)
    ((category, message),) = seen["warnings"]
    assert category == "RuntimeWarning" and "NANOINFER_CACHE_DIR" in message
    return message


def test_no_folder_can_be_made(filled, tmp_path):
    (tmp_path / "file").write_text("")
    assert_one_warning(small(tmp_path / "file" / "cache"), filled[1]["bits"])


@pytest.mark.skipif(os.name != "posix", reason="permissions as in POSIX")
@pytest.mark.parametrize("inner", [False, True], ids=["outer", "inner"])
def test_folder_that_others_can_write_to_is_refused(copied, inner):
    cache, files, bits = copied
    (files[0].parent if inner else cache).chmod(0o777)
    assert "others can write to it" in assert_one_warning(small(cache), bits)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_full_disk_gives_one_warning(filled, tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))"
    assert_one_warning(small(tmp_path / "cache", limit), filled[1]["bits"])
    assert [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_two_processes_fill_one_cache(filled, tmp_path):
    both = [start(SMALL.format(before=""), tmp_path / "cache") for _ in range(2)]
    for process in both:
        assert result(process) == filled[1]
    names = [sorted(path.name for path in kernel_files(cache)) for cache in (tmp_path / "cache", filled[0])]
    assert names[0] == names[1]
    assert small(tmp_path / "cache")["compiled"] is False


def test_key_follows_sources_and_cpu(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOINFER_CACHE_DIR", str(tmp_path / "cache"))
    folder = files.folder.__wrapped__
    shutil.copytree(Path(files.__file__).parents[1], tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    original = folder()
    monkeypatch.setattr(files, "__file__", str(tmp_path / "kernels" / "jit" / "cache.py"))
    assert folder() == original
    source = tmp_path / "kernels" / "matmul.py"
    text = source.read_text(encoding="utf-8")
    source.write_text(text + "# changed\n", encoding="utf-8")
    assert folder() != original
    source.write_text(text, encoding="utf-8")
    assert folder() == original
    monkeypatch.setenv("NUMBA_CPU_NAME", "haswell")
    monkeypatch.delenv("NUMBA_CPU_FEATURES", raising=False)
    other = folder()
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "")
    featureless = folder()
    monkeypatch.setenv("NUMBA_OPT", "0")
    plain = folder()
    monkeypatch.setattr(files, "cpu", lambda: "another")
    assert len({original, other, featureless, plain, folder()}) == 5


def test_names_tell_variants_apart():
    for first, second in (
        (("depthwise", 3, 1, 1, 7, 8, "hard", 4), ("depthwise", 3, 1, 1, 7, 8, "hard", 8)),
        (("a", 1, 12), ("a", 11, 2)),
    ):
        assert library.kernel_name(first) != library.kernel_name(second)


def as_other_cpu(name, cache):
    """The digits network compiled for another CPU, by Numba's own variables."""
    return result(start(DIGITS, cache, NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=""))


@pytest.fixture(scope="module")
def host_bits(predicted):
    return result(start(DIGITS, predicted[0]))["bits"]


@pytest.mark.skipif(target.host().lanes != 16, reason="compares with 16 lanes")
def test_8_lanes_without_avx512(host_bits, tmp_path):
    assert as_other_cpu("haswell", tmp_path) == {"lanes": 8, "bits": host_bits}


@pytest.mark.skipif(target.host().lanes < 8, reason="compares with wider vectors")
def test_4_lanes_without_fma(host_bits, tmp_path):
    assert as_other_cpu("generic", tmp_path) == {"lanes": 4, "bits": host_bits}


def test_what_is_set_for_compilation_is_set_back(monkeypatch):
    from nanoinfer.kernels.jit import compiler
    from numba import config

    monkeypatch.setattr(config, "DISABLE_JIT", True)
    before = gc.get_threshold()
    with pytest.raises(KeyboardInterrupt), compiler.undisturbed():
        assert not config.DISABLE_JIT and gc.get_threshold()[0] >= 10_000
        raise KeyboardInterrupt
    assert config.DISABLE_JIT and gc.get_threshold() == before


def test_a_kernel_calls_nothing_but_intrinsics():
    from nanoinfer.kernels.jit import compiler
    from nanoinfer.kernels.simd import intrinsics
    from numba import njit

    other, store = njit(lambda x: x + 1), intrinsics.store_i64

    def calls_a_function(instruction, thread, threads):
        store(instruction, other(thread))

    def allocates(instruction, thread, threads):
        store(instruction, [thread][0])

    def calls_the_c_library(instruction, thread, threads):
        store(instruction, int(math.gamma(threads)))

    for kernel in (calls_a_function, allocates, calls_the_c_library):
        with pytest.raises(TypeError, match=f"{kernel.__name__} calls .*; it can call nothing but intrinsics"):
            compiler.object_code(kernel, 3)


def test_others_may_compile_at_the_same_time(tmp_path):
    """Another thread's first njit, begun in the middle of a kernel's compilation, waits for it and not the reverse."""
    code = """
import threading, time, numba
from nanoinfer.kernels.jit import compiler, library
def meanwhile(flags=compiler.Flags):
    other.start()
    time.sleep(0.5)
    return flags()
other, compiler.Flags = threading.Thread(target=lambda: numba.njit("i8(i8)")(lambda x: x + 1)), meanwhile
library._compile([("packing",)])
other.join()
"""
    process = start(code, tmp_path)
    try:
        assert (process.communicate(timeout=60)[1], process.returncode) == ("", 0)
    finally:
        process.kill()


@pytest.mark.parametrize("version_file", [None, "# This file helps to compute a version number in source trees"])
def test_versions_of_packages_installed_otherwise(version_file, tmp_path, monkeypatch):
    (tmp_path / "__init__.py").touch()
    if version_file:
        (tmp_path / "_version.py").write_text(version_file)
    monkeypatch.setattr(files, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    assert files.release("numba").decode() == version("numba")
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    assert files.release("numba").decode() == version("numba")
