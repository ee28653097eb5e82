"""Kernels of a wheel: which CPU takes which file, and that nothing is compiled or imported where they are there."""

import os
import re
import sys

import pytest
from nanoinfer.kernels import kernel_name
from nanoinfer.kernels.jit import levels, shipped, target
from nanoinfer.kernels.jit.levels import LEVELS
from nanoinfer.kernels.packing import Packing

from build_backend.kernel_files import kernels, object_code
from tests.jit.processes import LINEAR_GELU, output_of, run_linear_gelu, start

WITHOUT = "import sys\nsys.modules['numba'] = sys.modules['llvmlite'] = None"  # as if they were not installed
USED = """
from pathlib import Path
from nanoinfer.kernels.jit import shipped
shipped.FOLDER = Path({folder!r})
"""


@pytest.fixture
def processor(monkeypatch):
    """A function that sets what Linux says of the CPU, and which one is chosen."""

    def set_to(machine, flags, chosen=(None, None), **fields):
        fields |= {"Features" if machine == "aarch64" else "flags": " ".join(flags)}
        monkeypatch.setattr(target, "fields", lambda: fields)
        monkeypatch.setattr(target, "chosen", lambda: chosen)
        monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "", "", "", machine)))
        levels.level.cache_clear()
        return levels.level(), levels.vectors()

    yield set_to
    levels.level.cache_clear()


V3, V4 = (LEVELS[name].flags for name in ("x86-64-v3", "x86-64-v4"))
AMD = {"vendor_id": "AuthenticAMD"}


@pytest.mark.skipif(sys.platform != "linux", reason="levels are Linux's")
def test_the_level_of_a_cpu(processor):
    assert processor("x86_64", V4) == ("x86-64-v4", (16, 32, False))
    assert processor("x86_64", V4, **AMD, **{"cpu family": "25"}) == ("x86-64-v4", (16, 32, True))
    assert processor("x86_64", V4, **AMD, **{"cpu family": "26"}) == ("x86-64-v4", (16, 32, False))
    assert processor("x86_64", V4 - {"avx512dq"}) == ("x86-64-v3", (8, 16, False))
    assert processor("x86_64", V3, **AMD, **{"cpu family": "25"}) == ("x86-64-v3", (8, 16, False))
    assert processor("x86_64", V3 - {"fma"}) == (None, None)
    assert processor("aarch64", {"asimd"}) == processor("aarch64", {"avx2"}) == ("aarch64", (4, 32, False))
    assert processor("riscv64", set()) == (None, None)


@pytest.mark.skipif(sys.platform != "linux", reason="levels are Linux's")
def test_the_level_of_a_chosen_cpu(processor):
    assert processor("x86_64", V4, ("haswell", "")) == ("x86-64-v3", (8, 16, False))
    assert processor("x86_64", V3, ("x86-64-v3", "")) == ("x86-64-v3", (8, 16, False))
    assert processor("x86_64", V4, ("haswell", None)) == (None, None)  # with the features of the host
    assert processor("x86_64", V4, ("haswell", "+avx512f")) == (None, None)
    assert processor("x86_64", V4, ("generic", "")) == (None, None)
    assert processor("x86_64", V3, ("x86-64-v4", "")) == (None, None)  # which this CPU cannot run


def test_a_file_depends_on_nothing_but_its_kernels():
    objects = {"b": b"second" * 9, "a": b"first" * 9}
    assert shipped.packed(objects) == shipped.packed(dict(reversed(objects.items())))


def test_a_file_that_is_damaged_or_for_other_sources(tmp_path, monkeypatch):
    path = tmp_path / "x.kernels"
    path.write_bytes(shipped.packed({"a": b"first" * 9, "b": b"second" * 9}))
    monkeypatch.setattr(shipped, "of_this_cpu", lambda: shipped.opened(path))
    assert (shipped.read("a"), shipped.read("b"), shipped.read("c")) == (b"first" * 9, b"second" * 9, None)
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + b"?")
    shipped._warn.cache_clear()
    with pytest.warns(RuntimeWarning, match="x.kernels is damaged: run 'pip install"):
        assert (shipped.read("a"), shipped.read("b")) == (b"first" * 9, None)
    for broken in (b"", sound[:150], b"nanoinfer kernels 2" + sound[19:], sound.replace(b"[0,", b"[1,")):
        path.write_bytes(broken)
        shipped._warn.cache_clear()
        with pytest.warns(RuntimeWarning, match="is damaged"):
            assert shipped.opened(path) is None and shipped.read("a") is None
    path.write_bytes(sound)
    monkeypatch.setattr(target, "IMPORTED", b"edited")
    assert shipped.opened(path) is None
    assert shipped.opened(tmp_path / "none.kernels") is None


@pytest.fixture(scope="module")
def held(tmp_path_factory, filled):
    """A folder with a file for this CPU, which has the kernels of LINEAR_GELU."""
    if levels.level() is None:
        pytest.skip("this CPU has no level")
    folder, (cached,) = tmp_path_factory.mktemp("objects"), filled[0].iterdir()
    known = kernels(levels.level())
    names = [path.name for path in cached.iterdir() if path.name in known]
    objects = {name: object_code((levels.level(), known[name])) for name in names}
    (folder / f"{levels.level()}{shipped.SUFFIX}").write_bytes(shipped.packed(objects))
    return folder


def test_nothing_is_compiled_or_written_where_the_wheel_has_all(held, filled, tmp_path):
    cache = tmp_path / "cache"
    found = run_linear_gelu(cache, before=USED.format(folder=str(held)) + WITHOUT)
    assert found == {"bits": filled[1]["bits"], "compiled": True, "warnings": []}  # "numba" is in sys.modules, as None
    assert run_linear_gelu(cache, before=USED.format(folder=str(held)))["compiled"] is False
    assert not cache.exists()


def test_edited_sources_are_compiled(held, filled, tmp_path):
    before = USED.format(folder=str(held)) + "from nanoinfer.kernels.jit import target\ntarget.IMPORTED += b'edited'"
    found = run_linear_gelu(tmp_path / "cache", before=before)
    assert (found["bits"], found["compiled"]) == (filled[1]["bits"], True)


def test_what_neither_wheel_nor_cache_has_is_one_clear_line(tmp_path):
    process = start(LINEAR_GELU.format(before=WITHOUT), tmp_path)
    error = process.communicate(timeout=60)[1].strip().splitlines()[-1]
    assert re.fullmatch(
        r"nanoinfer.errors.InputError: \d+ kernels have to be compiled here \(\w+_f32, .*\), and llvmlite is not "
        "installed: pip install numba llvmlite",
        error,
    )


def test_origins_name_the_wheel(held, tmp_path):
    code = (
        USED.format(folder=str(held))
        + """
import json
from nanoinfer.kernels.elementwise import Elementwise
from nanoinfer.kernels.jit import library
from nanoinfer.machine import host
from nanoinfer.kernels.packing import Packing
library.addresses([Packing(), Elementwise(host().lanes, "gelu"), Elementwise(host().lanes // 2, "gelu")])
print(json.dumps(library.origins()))
"""
    )
    origins = output_of(start(code, tmp_path))
    assert origins[kernel_name(Packing())] == "wheel" and sorted(origins.values()) == ["compiler", "wheel", "wheel"]
