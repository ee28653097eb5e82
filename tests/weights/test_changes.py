"""What happens to a file of weights after it was opened: its first numbers count, or a refusal, whatever is done."""

import gc
import io
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from nanoinfer.weights import read_weights, save_safetensors

from tests.helpers import refused

KINDS = ("m.safetensors", "m.pth", "legacy.pth")


def saved(path, value, count=5000):
    """A file of the kind that its name says, whose "w" is `count` times `value`."""
    if path.suffix == ".safetensors":
        save_safetensors({"w": np.full(count, value, np.float32)}, path)
    else:
        torch.save({"w": torch.full((count,), value)}, path, _use_new_zipfile_serialization=path.stem == "m")
    return path


def overwritten(path):
    """The file with its numbers doubled, at the same inode and of the same size."""
    content = saved(path.with_name("other" + path.name), 2.0).read_bytes()
    with open(path, "r+b") as file:
        file.write(content.ljust(path.stat().st_size, b"\0"))


def in_one_byte(path):
    with open(path, "r+b") as file:
        file.seek(-5000, os.SEEK_END)
        file.write(b"\x7f")


def truncated(path):
    os.truncate(path, 100)


def emptied(path):
    path.write_bytes(b"")


def grown(path):
    with open(path, "ab") as file:
        file.write(b"\0")


def touched(path):
    os.utime(path)


def renamed_over(path):
    (path.parent / "new").write_bytes(b"something else")
    os.replace(path.parent / "new", path)


def moved(path):
    path.rename(path.parent / "elsewhere")


@pytest.mark.parametrize("change", [overwritten, in_one_byte, truncated, emptied, grown, touched])
@pytest.mark.parametrize("name", KINDS)
def test_file_that_is_written_to_is_refused(tmp_path, name, change):
    array = read_weights(saved(tmp_path / name, 1.0)).arrays["w"]
    assert np.asarray(array).sum() == 5000
    os.utime(tmp_path / name, ns=(0, 0))  # a time stamp that no clock repeats
    array = read_weights(tmp_path / name).arrays["w"]
    change(tmp_path / name)
    for read in (lambda: np.asarray(array), lambda: pickle.dumps(array)):
        with refused(name, "changed since it was opened; create the model again", "renaming"):
            read()


@pytest.mark.parametrize("change", [renamed_over, moved, os.unlink, lambda path: os.chmod(path, 0)])
@pytest.mark.parametrize("name", KINDS)
def test_file_that_is_replaced_or_deleted_stays_as_it_was(tmp_path, name, change):
    array = read_weights(saved(tmp_path / name, 1.0)).arrays["w"]
    change(tmp_path / name)
    assert np.asarray(array).tolist() == [1] * 5000
    assert pickle.loads(pickle.dumps(array)).sum() == 5000


def test_mapped_bytes_are_copied(tmp_path):
    content = bytearray(saved(tmp_path / "m.safetensors", 1.0).read_bytes())
    array = read_weights(content).arrays["w"]
    content[:] = bytes(len(content))
    assert np.asarray(array).sum() == 5000
    assert np.asarray(read_weights(io.BytesIO(saved(tmp_path / "m.pth", 1.0).read_bytes())).arrays["w"]).sum() == 5000


def test_stored_array_reads_what_is_asked_for(tmp_path):
    values = np.arange(24, dtype=np.float16).reshape(6, 4)
    save_safetensors({"w": values, "big": np.arange(3, dtype=np.int64)}, tmp_path / "m.safetensors")
    arrays = read_weights(tmp_path / "m.safetensors").arrays
    array = arrays["w"]
    assert (array.shape, array.ndim, array.size, len(array), array.nbytes) == ((6, 4), 2, 24, 6, 96)
    assert array.dtype == np.float32 and arrays["big"].dtype == np.int64
    assert array[1:3].shape == (2, 4) and isinstance(array[1:3], type(array))
    for index in (slice(1, 3), slice(4, 9), slice(3, 1), 2, (slice(None), 1), slice(0, 6, 2)):
        np.testing.assert_array_equal(np.asarray(array[index]), values[index])
    np.testing.assert_array_equal(np.asarray(array[2:].reshape(2, 8)), values[2:].reshape(2, 8))
    np.testing.assert_array_equal(array * np.ones(4), values)
    assert array.astype(np.float64).dtype == np.float64
    assert "(6, 4)" in repr(array) and "m.safetensors" in repr(array)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs a list of open files")
def test_open_files_close_with_their_arrays(tmp_path):
    saved(tmp_path / "m.pth", 1.0)
    gc.collect()  # files of tests before this one
    before = len(os.listdir("/proc/self/fd"))
    arrays = [read_weights(tmp_path / "m.pth").arrays for _ in range(10)]
    assert len(os.listdir("/proc/self/fd")) == before + 10
    del arrays
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


NETWORK = """
import os, sys
import numpy as np
import nanoinfer

path = sys.argv[1]
x, y = np.ones((1, 3, 64, 64), np.float32), np.ones((1, 3, 96, 64), np.float32)
model, other, used = (nanoinfer.create_model("mobilenetv3_small_100", path, threads=2) for _ in range(3))
before, large = used(x), used(y)
os.truncate(path, 1000) if sys.argv[2] == "truncate" else open(path, "r+b").write(bytes(os.path.getsize(path)))
for call in (lambda: model(x), lambda: other(x, taps="blocks.1"), lambda: model(x)):
    try:
        call()
    except nanoinfer.InputError as error:
        assert "changed since it was opened" in str(error), error
    else:
        raise AssertionError("numbers of a changed file")
assert (used(x) == before).all() and (used(y) == large).all()
assert np.isfinite(used(np.ones((2, 3, 80, 64), np.float32))).all(), "packed weights serve any size"
print("sound")
"""


@pytest.mark.parametrize("how", ["truncate", "overwrite"])
def test_network_of_a_changed_file_refuses_to_run(tmp_path, how):
    """In a process of its own: of a mapped file, one that is cut short would end it (SIGBUS)."""
    import nanoinfer

    tensors = nanoinfer.create_model("mobilenetv3_small_100", "random:1").tensors
    save_safetensors(tensors, tmp_path / "m.safetensors")
    command = [sys.executable, "-c", NETWORK, str(tmp_path / "m.safetensors"), how]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.stdout == "sound\n", run.stderr
