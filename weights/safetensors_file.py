"""The safetensors format: read by mapping the file, written through the safetensors library.

A file is a length n (8 bytes, little-endian), n bytes of JSON {name: {dtype, shape, data_offsets: [begin, end]}}, then
the data that the offsets count from (https://github.com/huggingface/safetensors#format). The reader is our own because
the library copies every tensor, has no NumPy bfloat16 and does not say which tensor of a file is damaged. The checks
are the library's: the tensors tile the data exactly, without overlap, hole or rest.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np

from ..errors import InputError, damaged, printable
from .arrays import StrPath, bfloat16_to_float32, is_shape, to_float32

Entry = tuple[str, tuple[int, ...], int, int]  # dtype, shape, begin and end in bytes of the data

MAX_HEADER = 100_000_000  # the library's own limit
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",  # its bits; widened to float32 after reading
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}


def read_safetensors(path: StrPath) -> dict[str, np.ndarray]:
    """{name: array} in the order of the file's header; floats as float32, integers and bools as they are.

    float32 and integer tensors are read-only views of the mapped file, so that the system reads a page when it is first
    used. Raises InputError, which names the tensor and the fault, if the file is truncated or damaged.
    """
    with _opened(path) as file:
        entries, _, start, size = _read_header(file, path)
        _check_layout(entries, size - start, path)
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise InputError(
                f"{printable(path)}: cannot be mapped ({error.strerror}); copy it to a local disk"
            ) from None
    return {name: _array(data, start + begin, dtype, shape) for name, (dtype, shape, begin, _) in entries.items()}


def read_metadata(path: StrPath) -> dict[str, str]:
    """The `__metadata__` of the file, empty if there is none; only the header is read. InputError as above."""
    with _opened(path) as file:
        return _read_header(file, path)[1]


def save_safetensors(tensors: Mapping, path: StrPath, metadata: Mapping[str, str] | None = None) -> None:
    """Write {str: array-like of numbers} to `path`, with `metadata` in the header; dtypes are kept.

    The library orders tensors by falling alignment, then by name. The file appears whole or not at all: it is written
    under a temporary name in the same folder and renamed, so arrays mapped from an older file of that name stay valid.
    Raises InputError if a value is not an array of real numbers or the target cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    from .files import as_arrays

    arrays = as_arrays(tensors)
    if "__metadata__" in arrays:
        raise InputError("weights: no tensor can be called '__metadata__' in a safetensors file; rename it")
    metadata = dict(metadata or {})
    if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
        raise InputError("metadata of a safetensors file is text only; turn its keys and values into str")
    try:
        target = os.path.realpath(path)  # through a symbolic link, so that the link stays one
        if os.path.exists(target) and not os.path.isfile(target):
            raise InputError(f"{printable(path)}: is a folder or a device; give the path of a file to write")
        folder, name = os.path.split(target)
        temporary = os.path.join(folder, f".{name[:100]}.{os.urandom(6).hex()}.tmp")
        try:
            with open(temporary, "xb") as file:
                mode = os.fstat(file.fileno()).st_mode
            save_file(arrays, temporary, metadata=metadata or None)
            os.chmod(temporary, mode & 0o777)  # the library leaves the file readable by its owner alone
            os.replace(temporary, target)
        finally:
            with contextlib.suppress(OSError):  # it is gone after the rename
                os.unlink(temporary)
    except InputError:
        raise
    except (OSError, ValueError, SafetensorError) as error:  # ValueError: a NUL character in the path
        reason = printable(getattr(error, "strerror", None) or error)
        advice = "choose a folder that exists and is writable"
        raise InputError(f"{printable(path)}: cannot be written ({reason}); {advice}") from None


def _opened(path: StrPath) -> BinaryIO:
    try:
        return open(path, "rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{printable(path)}: cannot be read ({reason}); check the path and its permissions") from None


def _read_header(file: BinaryIO, path: StrPath) -> tuple[dict[str, Entry], dict[str, str], int, int]:
    """The entries by name, the metadata, the offset of the data, and the size of the file in bytes."""
    size = os.fstat(file.fileno()).st_size
    if size < 8:
        raise damaged(path, f"a safetensors file has at least 8 bytes, this one has {size}")
    length = int.from_bytes(file.read(8), "little")
    if length > size - 8:
        raise damaged(path, f"the header says it has {length} bytes, but only {size - 8} follow")
    if length > MAX_HEADER:
        raise damaged(path, f"the header has {length} bytes, more than the format's limit of {MAX_HEADER}")
    text = file.read(length)
    if len(text) != length or text[:1] != b"{":
        raise damaged(path, "the safetensors header is cut short or does not begin with '{'")
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"the safetensors header is not valid ({printable(error)})") from None
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise damaged(path, "the safetensors __metadata__ is not a table of text")
    entries = {name: _entry(name, fields, path) for name, fields in header.items()}
    return entries, metadata, 8 + length, size


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object as a dict; ValueError if a name appears twice, since readers differ in which of them they take."""
    table = dict(pairs)
    if len(table) != len(pairs):
        seen = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"the name {twice!r} appears twice")
    return table


def _entry(name: str, fields: object, path: StrPath) -> Entry:
    """One tensor of the header, each field checked on its own and against the others."""
    label = f"tensor {printable(name)!r}"
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise damaged(path, f"{label} has a name that is not valid text")
    if not isinstance(fields, dict) or not {"dtype", "shape", "data_offsets"} <= fields.keys():
        raise damaged(path, f"{label} lacks dtype, shape or data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise InputError(
            f"{printable(path)}: {label} has dtype {printable(dtype)}, which is not supported; save it as F32"
        )
    if not is_shape(shape):
        raise damaged(path, f"{label} has the impossible shape {printable(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(o) is int and o >= 0 for o in offsets):
        raise damaged(path, f"{label} has the impossible data_offsets {printable(offsets)}")
    begin, end = offsets
    expected = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
    if end - begin != expected:
        raise damaged(path, f"{label} ({dtype} {shape}) needs {expected} bytes, its data_offsets hold {end - begin}")
    return dtype, tuple(shape), begin, end


def _check_layout(entries: dict[str, Entry], size: int, path: StrPath) -> None:
    """InputError unless the tensors tile the `size` bytes of data: in bounds, no overlap, no hole, no rest."""
    position = 0
    for name, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        label = f"tensor {printable(name)!r}"
        if end > size:
            raise damaged(path, f"{label} ends at byte {end} of the data, which has only {size} bytes")
        if begin < position:
            raise damaged(path, f"{label} overlaps the tensor before it")
        if begin > position:
            raise damaged(path, f"{label} leaves a hole of {begin - position} bytes before it")
        position = end
    if position != size:
        raise damaged(path, f"{size - position} bytes follow the last tensor")


def _array(data: mmap.mmap, start: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor at byte `start` of the mapped file, copied only if its dtype or its alignment requires it."""
    count = math.prod(shape)
    stored = np.dtype(_DTYPES[dtype])
    if count == 0:  # frombuffer refuses a start at the very end of the file
        flat = np.empty(0, stored)
    else:
        flat = np.frombuffer(data, stored, count, start)
    if not flat.flags.aligned:  # the format does not promise alignment, and kernels need it
        flat = flat.copy()
    flat = bfloat16_to_float32(flat) if dtype == "BF16" else to_float32(flat)
    return flat.reshape(shape)


def release(array: np.ndarray) -> None:
    """Give the memory behind an array of `read_safetensors` back to the system, which rereads the file if it is used.

    Nothing happens to an array that is not a view of a mapped file.
    """
    base = array
    while isinstance(base, (np.ndarray, memoryview)):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
