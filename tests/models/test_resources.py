"""What a model keeps and needs: programs by bytes, refusals of what cannot fit, nothing left of models that go."""

import gc
import os
import resource
import sys

import numpy as np
import pytest

import nanoinfer
from nanoinfer import cgroups, sections
from nanoinfer.machine import available_bytes, memory
from tests.helpers import random_images, refused

NEEDS_PROC = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")


def resident():
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@pytest.fixture
def model():
    return nanoinfer.create_model("digits", threads=2)


def test_nine_sizes_in_turn_are_planned_once(model, monkeypatch):
    made, make = [], sections.make_program

    def counted(plan, *rest, **more):
        made.append(plan)
        return make(plan, *rest, **more)

    monkeypatch.setattr(sections, "make_program", counted)
    for _ in range(3):
        for side in range(64, 64 + 9 * 8, 8):
            model(random_images(1, (side, side)))
    assert len(made) == 9


def test_programs_go_by_their_bytes(model, monkeypatch):
    one = model.program((1, 3, 96, 96)).bytes
    assert one > model.program((1, 3, 96, 96)).arena.nbytes > 10_000
    monkeypatch.setattr(sections, "PROGRAM_BYTES_KEPT", 3 * one)
    expected = {}
    for side in (96, 64, 88, 80, 72, 96, 64):
        x = random_images(1, (side, side))
        y = model(x)
        np.testing.assert_array_equal(y, expected.setdefault(side, y))
        kept = model._sections._programs
        assert sum(program.bytes for program in kept.values()) <= 3 * one and len(kept) < 6
    monkeypatch.setattr(sections, "PROGRAM_BYTES_KEPT", 0)
    model(random_images(1, (88, 88)))
    assert len(model._sections._programs) == 1, "the one in use stays"


@NEEDS_PROC
def test_size_that_cannot_fit_is_refused_before_memory_is_touched(model):
    """An input of 480 GB, all of it the same number: a copy of it would end the process."""
    x = np.broadcast_to(np.float32(0), (1, 3, 200_000, 200_000))
    before = resident()
    with refused("digits needs", "GB of memory, and", "GB are available for an input of shape (1, 3, 200000, 200000)"):
        model(x)
    assert resident() - before < 100e6
    np.testing.assert_array_equal(model(random_images()), model(random_images()))


def test_refusal_says_what_is_needed_and_available(model, monkeypatch):
    needed = model.program((2, 3, 64, 64)).arena.nbytes
    monkeypatch.setattr(sections, "available_bytes", lambda: needed - 1)
    fresh = nanoinfer.create_model("digits", threads=2)
    with refused("needs 0.0 GB", "shape (2, 3, 64, 64); give fewer or smaller images at a time"):
        fresh(random_images(2, (64, 64)))
    monkeypatch.setattr(sections, "available_bytes", lambda: needed)
    assert fresh(random_images(2, (64, 64))).shape == (2, 10)


def test_available_memory_is_that_of_the_tightest_limit(tmp_path, monkeypatch):
    if sys.platform == "linux":
        assert 0 < available_bytes() < memory.UNLIMITED
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(cgroups, "OWN", tmp_path / "own")
    monkeypatch.setattr(cgroups, "ROOT", tmp_path / "groups")
    assert available_bytes() == memory.UNLIMITED
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable:   50 kB\n")
    assert available_bytes() == 50 * 1024
    (tmp_path / "own").write_text("0::/a/b\n")
    (tmp_path / "groups" / "a" / "b").mkdir(parents=True)
    for group, limit in (("a", 9000), ("a/b", "max")):
        for name, text in (("max", limit), ("current", 5000), ("stat", "anon 1\ninactive_file 1000")):
            (tmp_path / "groups" / group / f"memory.{name}").write_text(f"{text}\n")
    assert available_bytes() == 5000


def test_misaligned_input_gives_the_same_bits(model):
    for count in (1, 3, 4):
        x = random_images(count, (64, 64))
        shifted = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
        shifted[...] = x
        assert not shifted.flags.aligned
        np.testing.assert_array_equal(model(shifted), model(x))
        np.testing.assert_array_equal(shifted, x)


@pytest.mark.parametrize("threads", [1, 2])
def test_denormals_and_infinities_touch_no_other_image(threads):
    network = nanoinfer.create_model("resnext50_32x4d", "random:1", threads=threads)
    x = random_images(4, (64, 64))
    expected = network(x)
    for bad in (np.nan, np.inf, -np.inf, 1e-42, 3e38):
        changed = x.copy()
        changed[1] = bad
        changed[3, :, ::2] = bad
        np.testing.assert_array_equal(network(changed)[[0, 2]], expected[[0, 2]])


@NEEDS_PROC
@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "digits"])
def test_ten_thousand_calls_of_mixed_sizes_keep_their_memory(name):
    """Once all sizes have been there, resident memory grows by less than 5 %."""
    network = nanoinfer.create_model(name, "random:1", threads=2)
    generator = np.random.default_rng(0)
    shapes = [(count, 3, height, width) for count in (1, 2, 3, 5, 8) for height in (64, 96) for width in (64, 80, 96)]
    for shape in shapes:
        network(np.ones(shape, np.float32))
    before = resident()
    for number in generator.integers(0, len(shapes), 10_000):
        network(np.ones(shapes[number], np.float32))
    print(f"{name}: {before / 1e6:.1f} MB before, {resident() / 1e6:.1f} MB after 10,000 calls")
    assert resident() < 1.05 * before


@NEEDS_PROC
@pytest.mark.slow
def test_models_that_are_gone_leave_nothing():
    """500 models, each called at two sizes: memory, open files and threads are as after the first few."""

    def use():
        network = nanoinfer.create_model("digits", threads=2)
        network(random_images(1, (64, 64)))
        network(random_images(4, (72, 64)))

    def counts():
        gc.collect()
        return resident(), len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    for _ in range(20):
        use()
    before = counts()
    for _ in range(500):
        use()
    after = counts()
    print(f"{before[0] / 1e6:.1f} MB before, {after[0] / 1e6:.1f} MB after 500 models")
    assert after[1:] == before[1:] and after[0] < 1.05 * before[0]
