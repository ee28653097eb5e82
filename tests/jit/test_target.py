"""The key of the cache depends on all that code depends on, and code on nothing that is not in the key."""

import shutil
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from nanoinfer.kernels.elementwise import Elementwise
from nanoinfer.kernels.jit import compiler, elf, library, relocations, target
from numba import config


@pytest.fixture
def key(monkeypatch):
    """A function that computes the key afresh; what it keeps is forgotten afterwards."""
    monkeypatch.delenv("NUMBA_CPU_NAME", raising=False)
    monkeypatch.delenv("NUMBA_CPU_FEATURES", raising=False)

    def afresh():
        target.chosen.cache_clear()
        return target.key.__wrapped__()

    yield afresh
    monkeypatch.undo()
    target.chosen.cache_clear()


def test_key_depends_on_cpu_compilers_and_settings(key, monkeypatch):
    keys = [key()]
    monkeypatch.setenv("NUMBA_CPU_NAME", "haswell")
    keys.append(key())
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "")
    keys.append(key())
    monkeypatch.setattr(target, "cpu", lambda: "another")
    keys.append(key())
    monkeypatch.setattr(target, "release", lambda package: b"another")
    keys.append(key())
    monkeypatch.setattr(target, "IMPORTED", b"other sources")
    assert len({*keys, key()}) == 6


def test_sources_are_all_files_of_kernels(tmp_path, monkeypatch):
    shutil.copytree(Path(target.__file__).parents[1], tmp_path / "kernels", ignore=shutil.ignore_patterns("*.pyc"))
    monkeypatch.setattr(target, "__file__", str(tmp_path / "kernels" / "jit" / "target.py"))
    assert target.sources() == target.IMPORTED
    for name in ("matmul.py", "simd/tile.py", "jit/compiler.py"):
        source = tmp_path / "kernels" / name
        text = source.read_text(encoding="utf-8")
        source.write_text(text + "# changed\n", encoding="utf-8")
        assert target.sources() != target.IMPORTED
        source.write_text(text, encoding="utf-8")
    source.rename(source.with_name("moved.py"))
    assert target.sources() != target.IMPORTED


@pytest.mark.parametrize(
    "name, features, chosen",
    [
        (None, None, (None, None)),
        ("", None, (None, None)),
        ("host", "", (None, "")),
        ("Generic", None, ("Generic", "")),
        ("generic", "+avx", ("generic", "+avx")),
        ("haswell", None, ("haswell", None)),
    ],
)
def test_chosen_cpu_is_read_from_the_environment(name, features, chosen, key, monkeypatch):
    for variable, value in (("NUMBA_CPU_NAME", name), ("NUMBA_CPU_FEATURES", features)):
        if value is not None:
            monkeypatch.setenv(variable, value)
    assert target.chosen.__wrapped__() == chosen


def machine_code(spec):
    [(_, code)] = library._compile([spec]).values()
    file = elf._Object(code, relocations.host())
    return [file.content(file.sections[number]) for number in file.parts()]


def test_no_setting_of_numba_changes_code(monkeypatch):
    """Each of these would change what numba.njit makes of the same function."""
    spec = Elementwise(8, "piecewise")
    usual = machine_code(spec)
    for name, value in (
        ("DEBUGINFO_DEFAULT", 1), ("BOUNDSCHECK", 1), ("OPT", config._OptLevel(0)), ("CPU_NAME", "generic"),
        ("CPU_FEATURES", ""), ("ENABLE_AVX", 0), ("LOOP_VECTORIZE", 0),
    ):  # fmt: skip
        monkeypatch.setattr(config, name, value)
        assert machine_code(spec) == usual, name
    monkeypatch.setattr(compiler.cpu_target.target_context.codegen(), "_tm", None)
    assert machine_code(spec) == usual


@pytest.mark.parametrize("version_file", [None, "# This file helps to compute a version number in source trees"])
def test_package_version_is_found_without_a_version_file(version_file, tmp_path, monkeypatch):
    """A package may have no _version.py, one that names no version, or no folder that is found."""
    (tmp_path / "__init__.py").touch()
    if version_file:
        (tmp_path / "_version.py").write_text(version_file)
    monkeypatch.setattr(target, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    assert target.release("numba").decode() == version("numba")
    monkeypatch.setattr(target, "find_spec", lambda name: None)
    assert target.release("numba").decode() == version("numba")
