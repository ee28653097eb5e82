"""A file of the cache is used only as what it was written for, and only if nobody else could have written it."""

import os
import shutil
from itertools import permutations

import pytest
from nanoinfer.kernels.jit import cache, target

from tests.jit.processes import kernel_files, run_linear_gelu

CONTENT = b"symbol\n\x00code\nmore"


def test_what_was_written_is_read(own):
    for name, content in (("a", CONTENT), ("b", b"")):
        assert own.read(name) is None
        own.write(name, content)
        assert own.read(name) == content


@pytest.mark.parametrize("change", ["name", "folder", "version"])
def test_file_of_another_name_or_folder_is_absent(own, change, monkeypatch):
    own.write("first", CONTENT)
    if change == "name":
        (own.folder() / "first").rename(own.folder() / "second")
        assert own.read("second") is None
        return
    if change == "folder":
        other = target.key()[:24] + "0" * 40
        monkeypatch.setattr(target, "key", lambda: other)
    else:
        path = own.folder() / "first"
        path.write_bytes(path.read_bytes().replace(cache.MAGIC, b"nanoinfer 2\n"))
    assert own.read("first") is None


def test_every_changed_bit_and_every_cut_is_noticed(own):
    own.write("name", CONTENT)
    path = own.folder() / "name"
    sound = path.read_bytes()
    for at in range(len(sound)):
        for bit in range(8):
            path.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << bit]) + sound[at + 1 :])
            assert own.read("name") is None
        path.write_bytes(sound[:at])
        assert own.read("name") is None
    for broken in (bytes(len(sound)), sound + b"\0", sound[1:]):
        path.write_bytes(broken)
        assert own.read("name") is None
    path.write_bytes(sound)
    assert own.read("name") == CONTENT


@pytest.mark.skipif(os.name != "posix", reason="permissions and links as in POSIX")
@pytest.mark.parametrize("kind", ["others write", "link", "pipe", "folder", "another owner"])
def test_file_that_another_user_could_write_is_absent(own, kind, tmp_path, monkeypatch):
    own.write("name", CONTENT)
    path = own.folder() / "name"
    if kind == "others write":
        path.chmod(0o666)
    elif kind == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "another owner":
        owner = path.stat().st_uid
        if owner == 0:
            os.chown(path, 12345, -1)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    else:
        path.unlink()
        os.mkfifo(path) if kind == "pipe" else path.mkdir()
    assert own.read("name") is None


def test_nothing_is_written_when_sources_have_changed_since_their_import(own, monkeypatch):
    monkeypatch.setattr(target, "sources", lambda: b"edited")
    with pytest.warns(RuntimeWarning, match="sources of kernels changed"):
        own.write("name", CONTENT)
    assert own.read("name") is None and not own.folder().exists()


def test_swapped_kernels_give_right_results(filled, tmp_path):
    """Each file takes the next one's name; then each file is its own with the content of one compiled elsewhere."""
    shutil.copytree(filled[0], tmp_path / "cache")
    files = kernel_files(tmp_path / "cache")
    contents = [path.read_bytes() for path in files]
    for path, content in zip(files, [*contents[1:], contents[0]], strict=True):
        path.write_bytes(content)
    assert run_linear_gelu(tmp_path / "cache") == filled[1]
    assert [len(path.read_bytes()) for path in files] == [len(content) for content in contents]  # as they were
    assert run_linear_gelu(tmp_path / "cache") == {**filled[1], "compiled": False}


@pytest.mark.slow
def test_every_pair_of_swapped_kernels_gives_right_results(filled, tmp_path):
    shutil.copytree(filled[0], tmp_path / "cache")
    for one, other in permutations(kernel_files(tmp_path / "cache"), 2):
        one.write_bytes(other.read_bytes())
        assert run_linear_gelu(tmp_path / "cache") == filled[1]


CONFIGURED = """
import os
os.chdir({folder!r})
"""


@pytest.mark.parametrize("cpu", ["generic", "skylake-avx512"])
def test_config_file_of_numba_makes_no_other_code(cpu, filled, tmp_path):
    """Neither this process nor the next one gets kernels for the CPU that the file names."""
    pytest.importorskip("yaml")
    (tmp_path / ".numba_config.yaml").write_text(f"cpu_name: {cpu}\nopt: '0'\ndebuginfo: 1\n")
    configured = CONFIGURED.format(folder=str(tmp_path))
    assert run_linear_gelu(tmp_path / "cache", configured) == filled[1]
    assert run_linear_gelu(tmp_path / "cache") == {**filled[1], "compiled": False}
