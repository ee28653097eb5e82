"""The safetensors format: read a tensor at a time, written through the safetensors library.

A file is a length n (8 bytes, little-endian), n bytes of JSON {name: {dtype, shape, data_offsets: [begin, end]}}, then
the data that the offsets count from (https://github.com/huggingface/safetensors#format). The reader is our own because
the library copies every tensor, has no NumPy bfloat16 and does not say which tensor of a file is damaged. The checks
are the library's: the tensors tile the data exactly, without overlap, hole or rest.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping

import numpy as np

from ..errors import InputError, damaged, printable
from .arrays import StrPath, as_arrays, is_shape
from .buffer import Buffer, open_file
from .json_text import MAX_BYTES, parse_object
from .stored import Numbers, StoredArray

Entry = tuple[str, tuple[int, ...], int, int]  # dtype, shape, begin and end in bytes of the data

MAX_TENSORS = 2**15  # the largest networks for images have some thousands
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


def read_safetensors(buffer: Buffer) -> dict[str, StoredArray]:
    """{name: array} in the order of the file's header; floats as float32, integers and bools as they are.

    Only the header is read. Raises InputError, which names the tensor and the fault, if the file is damaged.
    """
    entries, _, start = _read_header(buffer)
    _check_layout(entries, len(buffer.data) - start, buffer.name)
    return {name: _array(buffer, start + begin, dtype, shape) for name, (dtype, shape, begin, _) in entries.items()}


def read_metadata(path: StrPath) -> dict[str, str]:
    """The `__metadata__` of the file, empty if there is none; only the header is read. InputError as above."""
    return _read_header(open_file(os.fsdecode(path)))[1]


def save_safetensors(tensors: Mapping, path: StrPath, metadata: Mapping[str, str] | None = None) -> None:
    """Write {str: array-like of numbers} to `path`, with `metadata` in the header; dtypes are kept.

    The library orders tensors by falling alignment, then by name. The file appears whole or not at all: it is written
    under a temporary name in the same folder and renamed, so that models of an older file of that name can read it on.
    Raises InputError if a value is not an array of real numbers or the target cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

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


def _read_header(buffer: Buffer) -> tuple[dict[str, Entry], dict[str, str], int]:
    """The entries by name, the metadata, and the offset of the data."""
    data, size = buffer.data, len(buffer.data)
    if size < 8:
        raise damaged(buffer.name, f"a safetensors file has at least 8 bytes, this one has {size}")
    length = int.from_bytes(data[:8], "little")
    if length > size - 8:
        raise damaged(buffer.name, f"the header says it has {length} bytes, but only {size - 8} follow")
    if length > MAX_BYTES:
        what = f"its safetensors header has {length:,} bytes, far more than that of any network"
        raise InputError(f"{buffer.name}: {what} (limit: {MAX_BYTES:,}); save fewer tensors or less metadata")
    text = data[8 : 8 + length]
    if text[:1] != b"{":
        raise damaged(buffer.name, "the safetensors header does not begin with '{'")
    try:
        header = parse_object(text)
    except ValueError as error:
        raise damaged(buffer.name, f"the safetensors header is not valid ({printable(error)})") from None
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise damaged(buffer.name, "the safetensors __metadata__ is not a table of text")
    if len(header) > MAX_TENSORS:
        what = f"holds {len(header):,} tensors, far more than any network (limit: {MAX_TENSORS:,})"
        raise InputError(f"{buffer.name}: {what}; save fewer tensors")
    return {name: _entry(name, fields, buffer.name) for name, fields in header.items()}, metadata, 8 + length


def _entry(name: str, fields: object, file: str) -> Entry:
    """One tensor of the header, each field checked on its own and against the others."""
    label = f"tensor {printable(name)!r}"
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise damaged(file, f"{label} has a name that is not valid text")
    if not isinstance(fields, dict) or not {"dtype", "shape", "data_offsets"} <= fields.keys():
        raise damaged(file, f"{label} lacks dtype, shape or data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise InputError(f"{file}: {label} has dtype {printable(dtype)}, which is not supported; save it as F32")
    if not is_shape(shape):
        raise damaged(file, f"{label} has the impossible shape {printable(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(o) is int and o >= 0 for o in offsets):
        raise damaged(file, f"{label} has the impossible data_offsets {printable(offsets)}")
    begin, end = offsets
    expected = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
    if end - begin != expected:
        raise damaged(file, f"{label} ({dtype} {shape}) needs {expected} bytes, its data_offsets hold {end - begin}")
    return dtype, tuple(shape), begin, end


def _check_layout(entries: dict[str, Entry], size: int, file: str) -> None:
    """InputError unless the tensors tile the `size` bytes of data: in bounds, no overlap, no hole, no rest."""
    position = 0
    for name, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        label = f"tensor {printable(name)!r}"
        if end > size:
            raise damaged(file, f"{label} ends at byte {end} of the data, which has only {size} bytes")
        if begin < position:
            raise damaged(file, f"{label} overlaps the tensor before it")
        if begin > position:
            raise damaged(file, f"{label} leaves a hole of {begin - position} bytes before it")
        position = end
    if position != size:
        raise damaged(file, f"{size - position} bytes follow the last tensor")


def _array(buffer: Buffer, start: int, dtype: str, shape: tuple[int, ...]) -> StoredArray:
    """The tensor at byte `start` of the file."""
    numbers = Numbers(buffer, start, np.dtype(_DTYPES[dtype]), math.prod(shape), dtype == "BF16")
    return StoredArray(numbers, shape)
