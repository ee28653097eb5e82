"""The cache of compiled kernels: a warm start compiles nothing, and a broken cache changes no result."""

import os
import shutil
import stat
import sys

import pytest
from nanoinfer.kernels import kernel_name
from nanoinfer.kernels.depthwise import Depthwise
from nanoinfer.kernels.jit.levels import level
from nanoinfer.kernels.matmul import Matmul
from nanoinfer.kernels.pooling import MaxPool

from tests.jit.processes import LINEAR_GELU, PREDICT, kernel_files, output_of, run_linear_gelu, start


@pytest.fixture
def copied(filled, tmp_path):
    """(a copy of the filled cache folder, its kernel files, the right bits)."""
    shutil.copytree(filled[0], tmp_path / "cache")
    return tmp_path / "cache", kernel_files(tmp_path / "cache"), filled[1]["bits"]


def test_second_process_compiles_nothing(filled):
    cache, first = filled
    assert first["compiled"] and first["warnings"] == []
    (folder,) = cache.iterdir()
    assert not stat.S_IMODE(folder.stat().st_mode) & 0o022
    names = {path.name for path in folder.iterdir()} - {path.name for path in kernel_files(cache)}
    asked = [] if level() else ["vectors"]  # of LLVM; no temporary file is left
    assert len(kernel_files(cache)) >= 3 and [name.partition("-")[0] for name in names] == asked
    second = run_linear_gelu(cache)
    assert second == {**first, "compiled": False}


def test_predict_with_cached_kernels_imports_no_numba(predicted):
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
    again = run_linear_gelu(cache)
    assert (again["bits"], again["compiled"], again["warnings"]) == (bits, True, [])
    assert run_linear_gelu(cache) == {"bits": bits, "compiled": False, "warnings": []}


@pytest.mark.parametrize("place", ["first byte", "checksum", "checksum, no text", "symbol", "no line ends"])
def test_file_with_a_broken_head_is_compiled_again(copied, place):
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
    assert run_linear_gelu(cache) == {"bits": bits, "compiled": True, "warnings": []}


def assert_one_warning(seen, bits):
    assert (seen["bits"], seen["compiled"]) == (bits, True)
    ((category, message),) = seen["warnings"]
    assert category == "RuntimeWarning" and "NANOINFER_CACHE_DIR" in message
    return message


def test_cache_folder_that_cannot_be_made_gives_one_warning(filled, tmp_path):
    (tmp_path / "file").write_text("")
    assert_one_warning(run_linear_gelu(tmp_path / "file" / "cache"), filled[1]["bits"])


@pytest.mark.skipif(os.name != "posix", reason="permissions as in POSIX")
@pytest.mark.parametrize("inner", [False, True], ids=["outer", "inner"])
def test_cache_folder_that_others_can_write_to_is_refused(copied, inner):
    cache, files, bits = copied
    (files[0].parent if inner else cache).chmod(0o777)
    assert "others can write to it" in assert_one_warning(run_linear_gelu(cache), bits)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_full_disk_gives_one_warning(filled, tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))"
    assert_one_warning(run_linear_gelu(tmp_path / "cache", limit), filled[1]["bits"])
    assert [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_two_processes_fill_one_cache(filled, tmp_path):
    both = [start(LINEAR_GELU.format(before=""), tmp_path / "cache") for _ in range(2)]
    for process in both:
        assert output_of(process) == filled[1]
    names = [sorted(path.name for path in kernel_files(cache)) for cache in (tmp_path / "cache", filled[0])]
    assert names[0] == names[1]
    assert run_linear_gelu(tmp_path / "cache")["compiled"] is False


def test_kernel_names_of_variants_differ():
    for first, second in (
        (Depthwise(3, 1, 1, 7, 8, "piecewise", 4), Depthwise(3, 1, 1, 7, 8, "piecewise", 8)),
        (Matmul(1, 12, 16, "piecewise"), Matmul(11, 2, 16, "piecewise")),
        (Matmul(4, 2, 16, "piecewise", "taps"), Matmul(4, 2, 16, "piecewise", "partial")),
        (MaxPool(4, 2, 16), Matmul(4, 2, 16, "piecewise")),
    ):
        assert kernel_name(first) != kernel_name(second)
