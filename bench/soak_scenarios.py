"""The scenarios of bench/soak.py: what callers, systems and files do to a library."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import nanoinfer

from .soak import Subject, World

THREADS = (1, 2, 3, 5)
SMALL = ("digits", "mobilenetv3_small_100")  # networks that a process of its own computes soon
# Prints the logits of all images of a subject as bytes; arguments: name, weights, threads, file of images.
CHILD = """
import sys, numpy as np, nanoinfer
name, weights, threads, images = sys.argv[1:]
model = nanoinfer.create_model(name, weights or None, threads=int(threads))
sys.stdout.buffer.write(model(np.load(images)).tobytes())
"""


class Interrupted(Exception):
    """What a signal handler raises."""


def batches(world: World) -> None:
    """Any network, batch, position and number of threads."""
    for _ in range(20):
        subject = world.any_subject()
        world.call(subject, world.model(subject.name, world.random.choice(THREADS)))


def many_callers(world: World) -> None:
    """Python threads that call the same and different models at once."""
    subjects = [world.any_subject() for _ in range(world.random.randint(2, 8))]
    models = [world.model(subject.name, world.random.choice(THREADS)) for subject in subjects]
    jobs = [[world.any_batch(subject) for _ in range(5)] for subject in subjects]
    found = [[] for _ in subjects]

    def work(number: int) -> None:
        for batch in jobs[number]:
            found[number].append(models[number](subjects[number].images[batch]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(subjects))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for subject, mine, results in zip(subjects, jobs, found, strict=True):
        for batch, logits in zip(mine, results, strict=True):
            world.check(subject, batch, logits)


def interrupted_calls(world: World) -> None:
    """Signal handlers that raise in the middle of calls, or call another model."""
    subject, other = world.any_subject(), world.any_subject(*SMALL)
    model, within = world.model(subject.name, 2), world.fresh_model(other.name, world.random.choice(THREADS))

    def handle(*_):
        world.counts["faults"] += 1
        if world.random.random() < 0.5:
            world.call(other, within)
        raise Interrupted

    with _handler(signal.SIGALRM, handle):
        for _ in range(30):
            try:
                signal.setitimer(signal.ITIMER_REAL, world.random.uniform(1e-4, 2e-3))
                while True:
                    world.call(subject, model)
            except Interrupted:
                pass
    world.call(subject, model)


@contextmanager
def _handler(number: int, handle: Callable) -> Iterator[None]:
    before = signal.signal(number, handle)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(number, before)


def forks(world: World) -> None:
    """A fork while another thread runs; the child computes, and so does the parent."""
    subject = world.any_subject(*SMALL)
    model, stop = world.model(subject.name, world.random.choice(THREADS)), threading.Event()

    def keep_calling() -> None:
        while not stop.is_set():
            model(subject.images[:1])

    beside = threading.Thread(target=keep_calling)
    beside.start()
    try:
        for _ in range(3):
            batch = world.any_batch(subject)
            process = multiprocessing.get_context("fork").Process(target=_compare, args=(subject, batch, model))
            process.start()
            process.join()
            world.counts["calls"] += 1
            world.counts["faults"] += 1
            world.counts["mismatches"] += process.exitcode != 0
            world.call(subject, model)
    finally:
        stop.set()
        beside.join()


def _compare(subject: Subject, batch: np.ndarray, model: nanoinfer.Model) -> None:
    sys.exit(int(not np.array_equal(model(subject.images[batch]), subject.logits[batch])))


def bad_neighbours(world: World) -> None:
    """Images of NaN, infinities, denormals and extremes beside others in a batch."""
    for _ in range(10):
        subject = world.any_subject()
        batch, images = world.any_batch(subject), None
        images = subject.images[batch]
        at = world.random.randrange(len(batch))
        images[at] = world.random.choice([np.nan, np.inf, -np.inf, 1e-40, 3e38])
        logits = world.model(subject.name, world.random.choice(THREADS))(images)
        world.counts["faults"] += 1
        world.check(subject, np.delete(batch, at), np.delete(logits, at, axis=0))


def busy_neighbours(world: World) -> None:
    """Processes that do not yield, on some of the cores."""
    spin = [sys.executable, "-c", "while True: pass"]
    neighbours = [subprocess.Popen(spin) for _ in range(world.random.randint(1, os.cpu_count() + 1))]
    try:
        world.counts["faults"] += len(neighbours)
        for _ in range(10):
            subject = world.any_subject()
            world.call(subject, world.model(subject.name, world.random.choice(THREADS)))
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()


def lost_cores(world: World) -> None:
    """The process may use fewer cores for a while than its teams have threads."""
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {world.random.choice(sorted(cores))})
        world.counts["faults"] += 1
        for _ in range(5):
            subject = world.any_subject()
            world.call(subject, world.model(subject.name, world.random.choice(THREADS)))
    finally:
        os.sched_setaffinity(0, cores)


def dropped_models(world: World) -> None:
    """Models that are made, called and dropped."""
    for _ in range(5):
        subject = world.any_subject(*SMALL)
        world.call(subject, world.fresh_model(subject.name, world.random.choice(THREADS)))
    gc.collect()


def damaged_caches(world: World) -> None:
    """Processes with a kernel cache in which files are cut, flipped, zeroed, swapped or gone."""
    subject, cache = world.any_subject(*SMALL), world.folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    known = world.folder / "whole-cache"
    if not known.exists():
        _child(world, subject, {"NANOINFER_CACHE_DIR": str(known)})
    shutil.copytree(known, cache)
    files = [path for path in cache.rglob("*") if path.is_file()]
    for path in world.random.sample(files, min(len(files), 3)):
        _damage(path, world.random.choice(files), world.random)
        world.counts["faults"] += 1
    _child(world, subject, {"NANOINFER_CACHE_DIR": str(cache)})


def _damage(path: Path, other: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    kind = rng.choice(["cut", "flip", "zero", "swap", "gone"])
    if kind == "gone":
        path.unlink()
        return
    if kind == "cut":
        del content[rng.randrange(len(content)) :]
    elif kind == "flip":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == "zero":
        content = bytearray(len(content))
    else:
        content = bytearray(other.read_bytes()) if other.exists() else content
    path.write_bytes(content)


def killed_processes(world: World) -> None:
    """Processes that are killed while they compile, then one that goes on with their cache."""
    subject, cache = world.any_subject("digits"), world.folder / "killed-cache"
    if world.random.random() < 0.3:
        shutil.rmtree(cache, ignore_errors=True)
    environment = {"NANOINFER_CACHE_DIR": str(cache)}
    for _ in range(2):
        process = _start(world, subject, environment, threads=2)
        time.sleep(world.random.uniform(0.2, 4))
        process.kill()
        process.communicate()
        world.counts["faults"] += 1
    _child(world, subject, environment)


def other_targets(world: World) -> None:
    """Processes whose kernels have vectors of another width."""
    cpu = world.random.choice(["nehalem", "haswell"])
    environment = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": "", "NANOINFER_CACHE_DIR": str(world.folder / cpu)}
    _child(world, world.any_subject(*SMALL), environment)


def _start(world: World, subject: Subject, environment: dict[str, str], threads: int) -> subprocess.Popen:
    images = world.folder / f"{subject.name}-{subject.size}.npy"
    np.save(images, subject.images)
    weights = "" if subject.name == "digits" else f"random:{world.seed}"
    command = [sys.executable, "-c", CHILD, subject.name, weights, str(threads), str(images)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environment},
        cwd=Path(__file__).parents[1],
    )  # fmt: skip


def _child(world: World, subject: Subject, environment: dict[str, str]) -> None:
    """Compare what another process computes."""
    process = _start(world, subject, environment, world.random.choice(THREADS))
    output, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"a process ended with {process.returncode}: {errors.decode()[-2000:]}")
    world.check(
        subject, np.arange(len(subject.images)), np.frombuffer(output, np.float32).reshape(subject.logits.shape)
    )


def changed_checkpoints(world: World) -> None:
    """A checkpoint that is overwritten or cut after the model was made: the right bits, or an InputError."""
    subject, path = world.any_subject("mobilenetv3_small_100"), world.folder / "weights.safetensors"
    source = world.model(subject.name, 1)
    from nanoinfer.weights import save_safetensors

    save_safetensors(source.tensors, path)
    model = nanoinfer.create_model(subject.name, path, threads=world.random.choice(THREADS))
    if world.random.random() < 0.5:
        world.call(subject, model)
    size = path.stat().st_size
    with path.open("r+b") as file:
        if world.random.random() < 0.5:
            file.truncate(world.random.randrange(size))
        else:
            file.seek(world.random.randrange(size // 2))
            file.write(bytes(world.random.randrange(1, size // 2)))
    world.counts["faults"] += 1
    try:
        world.call(subject, model)
    except nanoinfer.InputError:
        world.counts["calls"] += 1


SCENARIOS: dict[str, Callable[[World], None]] = {
    function.__name__: function
    for function in (
        batches, many_callers, interrupted_calls, forks, bad_neighbours, busy_neighbours, lost_cores, dropped_models,
        damaged_caches, killed_processes, other_targets, changed_checkpoints,
    )
}  # fmt: skip
