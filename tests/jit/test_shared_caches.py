"""Caches that others made or share: read-only ones, those of other users, full disks, many writers, killed writers."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from nanoinfer.kernels.jit import cache as kernel_cache

from tests.jit.processes import LINEAR_GELU, kernel_files, output_of, run_linear_gelu, start

pytestmark = pytest.mark.skipif(os.name != "posix", reason="users and permissions as in POSIX")
# A process of root may write anywhere; this takes it that right (all capabilities).
NO_RIGHTS = """
import ctypes, struct
ctypes.CDLL(None).capset(struct.pack("Ii", 0x20080522, 0), bytes(24)) if sys.platform == "linux" else None
"""
NOBODY = 65534
AS_ROOT = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")


@pytest.fixture
def prefilled(filled, tmp_path):
    """(a copy of the filled cache that nobody can write, its inner folder, the right result); writable at the end."""
    cache = tmp_path / "cache"
    shutil.copytree(filled[0], cache)
    [inner] = cache.iterdir()
    for path in (inner, cache, tmp_path):
        path.chmod(0o555)
    yield cache, inner, filled[1]
    for path in (tmp_path, cache, inner):
        path.chmod(0o755)


def one_warning(seen, bits):
    """The message of the only warning of a process that computed the right bits."""
    assert seen["bits"] == bits
    ((category, message),) = seen["warnings"]
    assert category == "RuntimeWarning" and "NANOINFER_CACHE_DIR" in message
    return message


def test_prefilled_cache_that_cannot_be_written_is_read(prefilled):
    cache, inner, first = prefilled
    assert run_linear_gelu(cache, NO_RIGHTS) == {**first, "compiled": False}
    inner.chmod(0o755)
    for path in kernel_files(cache)[:2]:
        path.unlink()
    inner.chmod(0o555)
    seen = run_linear_gelu(cache, NO_RIGHTS)
    assert seen["compiled"] and "cannot write to the kernel cache" in one_warning(seen, first["bits"])


# Another user may not be able to read this checkout; so what is read of it, and of Python, is read before.
AS_NOBODY = f"""
import os
from nanoinfer.kernels.jit import target
target.key(), host(), np.random.default_rng
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
"""


@pytest.mark.slow
@AS_ROOT
def test_cache_of_root_on_a_read_only_mount_serves_another_user(filled):
    """As in a container: warmed by root in the image, run by another user with a read-only root."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        shutil.copytree(filled[0], f"{place}/cache")
        mount = ["mount", "-o", "bind,ro", f"{place}/cache", f"{place}/cache"]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("nothing can be mounted here")
        try:
            process = start(LINEAR_GELU.format(before=AS_NOBODY), f"{place}/cache", HOME="/nonexistent")
            assert output_of(process) == {**filled[1], "compiled": False}
        finally:
            subprocess.run(["umount", f"{place}/cache"], check=True)


@pytest.fixture
def refused(own):
    """(a function that gives the warning about the folder, the outer folder, the inner one)."""
    own.write("name", b"content")
    inner = own.folder()

    def warning():
        own.folder.cache_clear()
        with pytest.warns(RuntimeWarning, match="NANOINFER_CACHE_DIR") as seen:
            assert own.read("name") is None and own.read("other") is None
            own.write("name", b"other")
        return str(seen.pop().message) if len(seen) == 1 else seen

    return warning, inner.parent, inner


@AS_ROOT
@pytest.mark.parametrize("place", ["outer", "inner"])
def test_folder_of_another_owner_is_refused_as_such(refused, place):
    warning, outer, inner = refused
    os.chown(outer if place == "outer" else inner, 12345, -1)
    assert "it belongs to another user, 12345" in warning()


@AS_ROOT
@pytest.mark.parametrize("place", ["outer", "inner"])
def test_folder_that_a_group_can_write_to_is_refused(refused, place):
    warning, outer, inner = refused
    folder = outer if place == "outer" else inner
    os.chown(folder, -1, 12345)
    folder.chmod(0o775)
    assert "its group 12345 can write to it" in warning()


def test_link_in_place_of_the_folder_is_refused(refused):
    """It could lead to files that somebody else made and this user unpacked."""
    warning, outer, inner = refused
    inner.rename(outer.with_name("elsewhere"))
    inner.symlink_to(outer.with_name("elsewhere"))
    assert "it is no folder" in warning()


def test_folder_that_cannot_be_read_is_refused(refused, monkeypatch):
    warning, _, _ = refused
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "it cannot be read" in warning()


def test_folder_in_a_sticky_one_is_used(own):
    own.write("name", b"content")
    own.folder().parent.chmod(0o1777)
    own.folder.cache_clear()
    assert own.read("name") == b"content"


def test_umask_does_not_let_others_write(own):
    umask = os.umask(0)
    try:
        own.write("name", b"content")
    finally:
        os.umask(umask)
    for path in (own.folder() / "name", own.folder(), own.folder().parent):
        assert path.stat().st_mode & 0o777 == (0o644 if path.is_file() else 0o755)


ME, GROUP = os.geteuid() if hasattr(os, "geteuid") else 0, 4321


@pytest.mark.parametrize(
    "mode, owner, group, members, problem",
    [
        (0o755, ME, GROUP, [], ""),
        (0o755, 0, GROUP, [], ""),
        (0o555, ME + 1, GROUP, [], "belongs to another user"),
        (0o775, ME, GROUP, ["me"], ""),  # the user's own group, which many systems give to each
        (0o775, ME, GROUP, ["me", "you"], "its group 4321 can write"),
        (0o775, ME, GROUP, None, "its group 4321 can write"),  # of another name
        (0o775, 0, 0, None, ""),  # root's group, as in images for any user
        (0o757, ME, GROUP, [], "others can write"),
        (0o1777, ME, GROUP, [], "others can write"),
    ],
)
def test_who_could_replace_code_decides(mode, owner, group, members, problem, monkeypatch):
    grp, pwd = pytest.importorskip("grp"), pytest.importorskip("pwd")
    monkeypatch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_name="me", pw_gid=GROUP))
    entry = SimpleNamespace(gr_name="team" if members is None else "me", gr_mem=members or [])
    monkeypatch.setattr(grp, "getgrgid", lambda _: entry)
    status = os.stat_result((mode, 0, 0, 1, owner, group, 0, 0, 0, 0))
    assert problem in kernel_cache._exposed(status) if problem else kernel_cache._exposed(status) == ""
    if mode & 0o1000:
        assert kernel_cache._exposed(status, sticky=True) == ""


def test_tilde_and_relative_names_of_folders(filled, tmp_path):
    shutil.copytree(filled[0], tmp_path / "kernels")
    names = f"""
import json, os
from nanoinfer.kernels.jit import cache
def base(name):
    os.environ["NANOINFER_CACHE_DIR"] = name
    return str(cache.base())
os.chdir({str(tmp_path)!r})
print(json.dumps([base("~/kernels"), base("kernels"), base("")]))
"""
    assert output_of(start(names, "", HOME=str(tmp_path), XDG_CACHE_HOME="")) == [
        str(tmp_path / "kernels"),
        str(tmp_path / "kernels"),
        str(tmp_path / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "nanoinfer"),
    ]


def test_user_without_a_home_gets_one_warning(own, tmp_path, monkeypatch):
    pwd = pytest.importorskip("pwd")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    monkeypatch.chdir(tmp_path)
    for variable in ("HOME", "NANOINFER_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.warns(RuntimeWarning, match="this user has no home folder") as seen:
        own.write("name", b"content")
        assert own.read("name") is None
    assert len(seen) == 1 and not list(tmp_path.iterdir())


def test_home_that_cannot_be_written_gives_one_warning(filled, tmp_path):
    (tmp_path / "home").mkdir(mode=0o555)
    before = f"import os\nos.environ.update(HOME={str(tmp_path / 'home')!r}, NANOINFER_CACHE_DIR='')\n{NO_RIGHTS}"
    process = start(LINEAR_GELU.format(before=before), "", XDG_CACHE_HOME="")
    assert "Permission denied" in one_warning(output_of(process), filled[1]["bits"])
    assert not list((tmp_path / "home").iterdir())


def test_old_temporary_files_are_removed_and_new_ones_stay(prefilled):
    cache, inner, first = prefilled
    inner.chmod(0o755)
    for name, age in ((".gone.0.new", 7200), (".here.1.new", 60)):
        (inner / name).write_bytes(b"half")
        os.utime(inner / name, (time.time() - age,) * 2)
    kernel_files(cache)[0].unlink()
    assert run_linear_gelu(cache) == first  # one kernel is written
    assert [path.name for path in inner.glob(".*")] == [".here.1.new"]


@pytest.mark.slow
@AS_ROOT
def test_full_disk_of_any_size_gives_one_warning(filled, tmp_path):
    """Disks that are full after no, some and all but one of the kernels."""
    place = tmp_path / "disk"
    place.mkdir()
    for pages in (1, 2, 4, 6):
        size = f"size={4 * pages}k,mode=755"
        if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", place], capture_output=True).returncode:
            pytest.skip("nothing can be mounted here")
        try:
            seen = run_linear_gelu(place)
            assert "No space left on device" in one_warning(seen, filled[1]["bits"])
            assert not [path for path in place.rglob("*.new")]
            seen = run_linear_gelu(place)  # of a cache that lacks some
            assert "No space left on device" in one_warning(seen, filled[1]["bits"])
        finally:
            subprocess.run(["umount", place], check=True)


@pytest.mark.slow
def test_ten_processes_fill_one_cache(filled, tmp_path):
    processes = [start(LINEAR_GELU.format(before=""), tmp_path / "cache") for _ in range(10)]
    assert [output_of(process, timeout=3000) for process in processes] == [filled[1]] * 10
    assert [path.name for path in kernel_files(tmp_path / "cache")] == [path.name for path in kernel_files(filled[0])]
    assert not list((tmp_path / "cache").rglob(".*"))
    assert run_linear_gelu(tmp_path / "cache") == {**filled[1], "compiled": False}


@pytest.mark.slow
def test_killed_compilations_leave_a_right_cache(filled, tmp_path):
    """Killed at the first, second, ... call of the system that writes a file, so also with half of one written."""
    killed = """
import os
from nanoinfer.kernels.jit import cache
calls = []
def dies(name):
    function = getattr(os, name)
    def call(*arguments):
        calls.append(name)
        if len(calls) == {at}:
            os.kill(os.getpid(), 9)
        return function(*arguments)
    return call
os.urandom, os.replace = dies("urandom"), dies("replace")
"""
    for at in range(1, 7):
        process = start(LINEAR_GELU.format(before=killed.format(at=at)), tmp_path / "cache")
        process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL
        assert run_linear_gelu(tmp_path / "cache") == filled[1]
        shutil.rmtree(tmp_path / "cache")


@pytest.mark.slow
def test_edited_helper_is_compiled_and_the_old_one_found_again(tmp_path):
    """A copy of the package: a constant of GELU, which a kernel calls, is edited, and edited back."""
    root = Path(__file__).parents[2]
    package = tmp_path / "site" / "nanoinfer"
    shutil.copytree(root / "nanoinfer", package)
    for name in ("kernels", "weights"):
        shutil.copytree(root / name, package / name, ignore=shutil.ignore_patterns("__pycache__"))
    before = f"import os; assert runtime.__file__.startswith({str(tmp_path)!r}), runtime.__file__"

    def run():
        code = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n{LINEAR_GELU.format(before=before)}"
        return output_of(start(code, tmp_path / "cache", PYTHONDONTWRITEBYTECODE="1"))

    first, helper = run(), package / "kernels" / "simd" / "activation.py"
    text = helper.read_text(encoding="utf-8")
    assert text.count("-0.7213475") == 1
    helper.write_text(text.replace("-0.7213475", "-0.72"), encoding="utf-8")
    edited = run()
    assert edited["compiled"] and edited["bits"] != first["bits"]
    helper.write_text(text, encoding="utf-8")
    assert run() == {**first, "compiled": False}
