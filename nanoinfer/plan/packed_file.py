"""Packed weights in a file that all processes of a machine map, so that they hold it in memory once.

The file lies in the kernel cache, under the same rules of trust. Its name is a digest of all that its numbers depend
on: the tensors, the graph, the code that plans and packs, the kernels, and the machine. So no change of any of these
finds an old file. It is replaced by renaming and never written in place; what is mapped stays as it was.

    MAGIC, a line of JSON {"arrays": [[key, offset, size], ...], "sum": ...}, and from DATA_START bytes on the arrays

The sum, modulo 2**64, is of all 64-bit words behind the header. It finds parts that were lost, cleared or cut off, and
any bit that flipped, in a tenth of the time of a cryptographic digest: nothing of this file is executed.
"""

from __future__ import annotations

import ast
import hashlib
import json
import mmap
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache as cached
from pathlib import Path

import numpy as np

from ..graph import Graph
from ..kernels.jit import cache
from ..lowering.layout import ALIGNMENT, round_up
from ..lowering.packed import PackedWeights
from ..machine import Machine

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

MAGIC = b"nanoinfer packed 1\n"
PREFIX = "packed-"
HEADER_UNIT = 4096  # data begins at a multiple of it
UNUSED_SECONDS = 30 * 86400  # after which a file is removed
TOUCH_SECONDS = 86400  # how often a file in use says so


@cached
def _planning() -> bytes:
    """A digest of the code that decides what is packed, and how."""
    digest, root = hashlib.sha256(), Path(__file__).parents[1]
    for room in ("graph", "lowering", "plan", "machine"):
        for path in sorted((root / room).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.digest()


def file_name(tensors_hash: str, graph: Graph, machine: Machine, *options) -> str:
    """The name of the file for a network: of tensors with this hash, planned for this machine under these options."""
    nodes = [
        (node.op, node.inputs, sorted(node.tensors.items()), sorted(node.attributes.items())) for node in graph.nodes
    ]
    parts = (tensors_hash, repr(nodes), repr(machine), repr(options))
    return PREFIX + hashlib.sha256(_planning() + "\0".join(parts).encode()).hexdigest()[:32]


@contextmanager
def locked(name: str) -> Iterator[None]:
    """While one process packs, others wait for its file; where nothing can be locked, each packs for itself."""
    folder = cache.folder()
    try:
        file = open(folder / f"{name}.lock", "ab") if folder and fcntl else None
    except OSError:  # the folder is not there yet, or cannot be written
        file = None
    if file is None:
        yield
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def load(name: str) -> PackedWeights:
    """What the file holds, mapped; nothing if it is not there, is damaged or could be replaced by somebody else."""
    packed = PackedWeights()
    try:
        with cache.opened(name) as file:
            status = os.fstat(file.fileno())
            if file.readline() != MAGIC:
                return packed
            header = json.loads(file.readline())
            start = round_up(file.tell(), HEADER_UNIT)
            memory = mmap.mmap(file.fileno(), status.st_size, prot=mmap.PROT_READ)
    except (OSError, ValueError, AttributeError):  # mmap has other arguments on Windows
        return packed
    words = np.frombuffer(memory, np.float32)[start // 4 :]
    if not _is_whole(words, header):
        return packed
    for key, offset, size in header["arrays"]:
        packed[ast.literal_eval(key)] = words[offset // 4 :][:size]
    if time.time() - status.st_mtime > TOUCH_SECONDS:
        with suppress(OSError):
            os.utime(cache.folder() / name)
    return packed


def save(name: str, packed: Mapping) -> bool:
    """Write all arrays to the file, in place of what it held; whether that was done.

    A folder that can only be read, as in a container, is no fault: each process then has weights of its own.
    """
    folder = cache.folder()
    if folder is None or (folder.exists() and not os.access(folder, os.W_OK)):
        return False
    arrays, parts, at, total = [], [], 0, 0
    for key, values in packed.items():
        text = repr(tuple(key))
        if ast.literal_eval(text) != key:
            raise TypeError(f"{text} is no key of numbers and text")
        padding = np.zeros(round_up(values.nbytes, ALIGNMENT) // 4 - values.size, np.float32)
        arrays.append((text, at, values.size))
        parts += [values, padding]
        whole = values.size // 2 * 2  # a word may lie in values and padding
        total += _sum(values[:whole]) + _sum(np.concatenate([values[whole:], padding]))
        at += values.nbytes + padding.nbytes
    header = MAGIC + json.dumps({"arrays": arrays, "sum": total % 2**64, "bytes": at}).encode() + b"\n"
    _remove_unused()
    return cache.save(name, [header.ljust(round_up(len(header), HEADER_UNIT), b"\0"), *parts])


def _is_whole(words: np.ndarray, header: dict) -> bool:
    return isinstance(header, dict) and header.get("bytes") == words.nbytes and header.get("sum") == _sum(words)


def _sum(words: np.ndarray) -> int:
    return int(words.view(np.uint64).sum(dtype=np.uint64))


def _remove_unused() -> None:
    """Remove files of networks that were not loaded for a month."""
    with suppress(OSError), os.scandir(cache.folder() or "") as entries:
        for entry in entries:
            if entry.name.startswith(PREFIX) and time.time() - entry.stat().st_mtime > UNUSED_SECONDS:
                os.unlink(entry.path)
