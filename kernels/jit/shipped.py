"""Kernels that a wheel holds: object code for the levels of `levels`, one file for each.

So a first start compiles nothing, and the compiler need not be installed. A file is for the kernel sources that it was
compiled from: where one of these was edited, nothing is taken from it. A checkout has no such files.

    nanoinfer kernels 1
    digest of the line that follows
    {"sources": digest, "kernels": {name: [offset, bytes, digest]}}
    object code, each compressed by itself; offsets count from here

Object code is compared with its digest, which is also of its name, before a byte of it is used.
"""

from __future__ import annotations

import hashlib
import json
import warnings
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from . import target
from .levels import level

MAGIC = b"nanoinfer kernels 1"
FOLDER = Path(__file__).parents[1] / "objects"
SUFFIX = ".kernels"


class Shipped(NamedTuple):
    """One file: {kernel name: (offset in `content`, bytes, digest)}."""

    path: Path
    index: dict[str, tuple[int, int, str]]
    content: bytes


def packed(objects: Mapping[str, bytes]) -> bytes:
    """A file of {kernel name: object code} of these kernel sources, whatever order they come in.

    The symbol of a kernel's function is its name.
    """
    index, parts, offset = {}, [], 0
    for name in sorted(objects):
        part = zlib.compress(objects[name], 9)
        index[name] = offset, len(part), _digest(name, part)
        parts.append(part)
        offset += len(part)
    head = json.dumps({"sources": target.IMPORTED.hex(), "kernels": index}, separators=(",", ":")).encode()
    return b"\n".join([MAGIC, _digest("", head).encode(), head, b"".join(parts)])


def opened(path: Path) -> Shipped | None:
    """A file, or None if it is not there, is for other kernel sources or, with a warning, is damaged."""
    try:
        magic, digest, head, content = path.read_bytes().split(b"\n", 3)
    except OSError:
        return None
    except ValueError:
        magic = b""
    if magic != MAGIC or _digest("", head) != digest.decode(errors="replace"):
        _warn(path)
        return None
    known = json.loads(head)
    return Shipped(path, known["kernels"], content) if known["sources"] == target.IMPORTED.hex() else None


@cache
def of_this_cpu() -> Shipped | None:
    """The file for this process's CPU."""
    return opened(FOLDER / f"{level()}{SUFFIX}") if level() else None


def read(name: str) -> bytes | None:
    """The object code of a kernel, or None. Warns of a file that is damaged."""
    shipped = of_this_cpu()
    if shipped is None or name not in shipped.index:
        return None
    offset, size, digest = shipped.index[name]
    part = shipped.content[offset : offset + size]
    if _digest(name, part) != digest:
        _warn(shipped.path)
        return None
    return zlib.decompress(part)


@cache
def _warn(path: Path) -> None:
    warnings.warn(f"{path} is damaged: run 'pip install --force-reinstall nanoinfer'", RuntimeWarning, stacklevel=4)


def _digest(name: str, part: bytes) -> str:
    return hashlib.sha256(name.encode() + b"\0" + part).hexdigest()
