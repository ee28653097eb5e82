"""Packed weights in a file: the same bits, one copy for all processes, and nothing stale or damaged is used."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from nanoinfer.kernels.jit import cache

import nanoinfer
from nanoinfer import plan
from nanoinfer.plan import packed_file
from tests.cli.command_line import ROOT

X = np.random.default_rng(5).random((2, 3, 64, 64), np.float32)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The folder of packed files, which is empty at first; kernels stay where they are."""
    monkeypatch.setattr(cache, "folder", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def packings(monkeypatch):
    """How many weights each program packed."""
    counts, pack = [], plan._pack
    monkeypatch.setattr(
        plan, "_pack", lambda staging, made: (counts.append(len(staging.requests)), pack(staging, made))
    )
    return counts


def shared(seed=1, **options):
    return nanoinfer.create_model("mobilenetv3_small_100", f"random:{seed}", share_weights=True, **options)


def packed(folder):
    return [path for path in folder.iterdir() if path.name.startswith("packed-") and path.suffix != ".lock"]


@pytest.fixture(scope="module")
def expected():
    return nanoinfer.create_model("mobilenetv3_small_100", "random:1")(X)


def test_a_second_model_packs_nothing(files, packings, expected):
    first, second = shared(), shared()
    np.testing.assert_array_equal(first(X), expected)
    assert packings[0] > 30 and packings[1] == 0 and len(packings) == 2  # made again, of the file
    np.testing.assert_array_equal(second(X), expected)
    assert packings[2:] == [0] and len(packed(files)) == 1
    for model in (first, second):
        assert not any(array.flags.writeable for array in model._sections._packed.values())


def test_other_tensors_and_options_have_other_files(files, expected):
    shared()(X)
    for model in (shared(2), shared(exact=True), shared().with_passes(3)):
        plain = nanoinfer.Model(model.pretrained, 1, exact=model.exact, pass_count=model.pass_count)
        np.testing.assert_array_equal(model(X), plain(X))
    assert len(packed(files)) == 4


def test_later_programs_add_to_the_file(files, packings):
    model = shared()
    small = model(X)
    features = model.forward_features(X)  # has other values to keep, and so other products
    np.testing.assert_array_equal(model(X), small)
    again = shared()
    np.testing.assert_array_equal(again.forward_features(X), features)
    assert packings[-1] == 0


@pytest.mark.parametrize("damage", ["bit", "cut", "cleared", "header", "empty"])
def test_a_damaged_file_is_as_good_as_absent(files, packings, expected, damage):
    shared()(X)
    [path] = packed(files)
    content = bytearray(path.read_bytes())
    if damage == "bit":
        content[len(content) // 2] ^= 4
    if damage == "cleared":
        content[-4096:] = bytes(4096)
    if damage == "header":
        content[30] ^= 4
    path.write_bytes({"cut": content[:-1024], "empty": b""}.get(damage, content))
    packings.clear()
    np.testing.assert_array_equal(shared()(X), expected)
    assert packings[0] > 30
    packings.clear()
    np.testing.assert_array_equal(shared()(X), expected)
    assert packings == [0]  # it was replaced by a whole one


def test_without_a_cache_each_packs_for_itself(monkeypatch, packings, expected):
    monkeypatch.setattr(cache, "folder", lambda: None)
    np.testing.assert_array_equal(shared()(X), expected)
    assert len(packings) == 1


def test_a_folder_that_can_only_be_read_is_no_fault(files, packings, expected, monkeypatch, recwarn):
    monkeypatch.setattr(packed_file.os, "access", lambda path, mode: False)
    np.testing.assert_array_equal(shared()(X), expected)
    assert len(packings) == 1 and not packed(files) and not recwarn.list


def test_a_file_that_others_could_replace_is_not_used(files, packings, expected):
    shared()(X)
    os.chmod(packed(files)[0], 0o666)
    packings.clear()
    np.testing.assert_array_equal(shared()(X), expected)
    assert packings[0] > 30


def test_files_that_nobody_loads_are_removed(files):
    shared()(X)
    [path] = packed(files)
    month = time.time() - packed_file.UNUSED_SECONDS - 60
    os.utime(path, (month, month))
    shared()(X)  # says that it is in use
    shared(2)(X)
    assert path.exists() and len(packed(files)) == 2
    os.utime(path, (month, month))
    shared(3)(X)
    assert not path.exists()


WORKER = """
import sys
import numpy as np
import nanoinfer
model = nanoinfer.create_model("mobilenetv3_small_100", "random:1", threads=1, share_weights=True)
print(model.fingerprint(np.ones((1, 3, 64, 64), np.float32)), flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_hold_one_copy():
    """Started at once, before there is a file; afterwards each has its part of the same pages."""
    command = [sys.executable, "-c", WORKER]
    workers = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    try:
        assert len({worker.stdout.readline() for worker in workers}) == 1
        sizes = [mapped(worker.pid) for worker in workers]
    finally:
        for worker in workers:
            worker.communicate("\n")
    assert all(dirty == 0 for _, _, dirty in sizes)
    assert sum(pss for _, pss, _ in sizes) < 1.1 * max(rss for rss, _, _ in sizes)


def mapped(pid):
    """(Rss, Pss, private dirty) in kB of the packed file in a process."""
    lines, sizes = Path(f"/proc/{pid}/smaps").read_text().splitlines(), {"Rss:": 0, "Pss:": 0, "Private_Dirty:": 0}
    inside = False
    for line in lines:
        first = line.split()[0]
        if "-" in first:
            inside = "/packed-" in line
        elif inside and first in sizes:
            sizes[first] += int(line.split()[1])
    assert sizes["Rss:"] > 1000
    return tuple(sizes.values())
