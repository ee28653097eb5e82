"""Checkpoints of torch.save (.pth, .pt; torch>=1.6) without torch and without executing pickle.

Such a file is a zip of uncompressed entries: "<name>/data.pkl" describes the object, "<name>/data/<key>" are the
storages, "<name>/byteorder" says "little" or "big". pickle_data.py reads the description, and this file reads the
numbers.
"""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from typing import BinaryIO

import numpy as np

from ..errors import InputError, damaged, printable
from .arrays import StrPath, bfloat16_to_float32, to_float32
from .pickle_data import Storage, Tensor, read_pickle

CHUNK = 2**18  # bytes per read, few enough that the checksum finds them in the cache
WRAPPERS = ("state_dict", "model_state_dict", "model")


def read_torch_zip(path: StrPath) -> dict[str, np.ndarray]:
    """{name: C-contiguous array} in the order of the state dict; floats as float32, integers and bools as they are.

    A training checkpoint is unwrapped: the state dict is under the first key of "state_dict", "model_state_dict" and
    "model" that it has, and entries beside it (epoch, optimizer, a moving average) are ignored. A prefix "module." that
    every name has (torch's DataParallel) is removed. num_batches_tracked stays in the dict. Tensors that share a
    storage share memory. Only the storages in use are read, and their checksums are checked.

    Raises InputError if the file is damaged, or holds anything but dense tensors of real numbers: a whole pickled
    model, TorchScript, Python objects.
    """
    try:
        with open(path, "rb") as file:
            archive = _Archive(file, path)
            state = _state_dict(read_pickle(archive.read("data.pkl").tobytes(), path), path)
            return _arrays(state, archive)
    except OSError as error:
        raise InputError(
            f"{printable(path)}: cannot be read ({printable(error)}); check the file and its disk"
        ) from None


def _state_dict(root: object, path: StrPath) -> dict[str, Tensor]:
    """The state dict in the root object of a checkpoint: unwrapped, and without the DataParallel prefix."""
    for _ in WRAPPERS:  # wrappers may be nested, but a dict that holds itself must not loop for ever
        inner = [root[key] for key in WRAPPERS if isinstance(root, dict) and isinstance(root.get(key), dict)]
        if inner:
            root = inner[0]
    if not isinstance(root, dict):
        kind = type(root).__name__.lower()
        raise InputError(f"{printable(path)}: holds a {kind}, not a state dict; save model.state_dict() instead")
    for name, value in root.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            what = f"its entry {printable(name)!r} is a {type(value).__name__}, not a named tensor"
            raise InputError(f"{printable(path)}: {what}; save model.state_dict() instead")
    if root and all(name.startswith("module.") for name in root):
        root = {name[len("module.") :]: tensor for name, tensor in root.items()}
    return root


def _arrays(state: dict[str, Tensor], archive: _Archive) -> dict[str, np.ndarray]:
    """The arrays of a state dict: each storage is read and widened to float32 once, and tensors are views of it.

    Tensors that are not contiguous (channels_last, expanded) are copied. A few bytes can describe an expanded tensor of
    any size, so the size of all copies is limited to a small multiple of the file's.
    """
    storages, arrays = {}, {}
    budget = 4 * archive.size + 2**24
    for name, tensor in state.items():
        if tensor.storage not in storages:
            storages[tensor.storage] = archive.storage(tensor.storage)
        array = _view(storages[tensor.storage], tensor, name, archive.path)
        if not array.flags.c_contiguous:
            budget -= array.nbytes
            if budget < 0:
                what = f"tensor {printable(name)!r} repeats its numbers to more than the file can hold"
                raise InputError(f"{printable(archive.path)}: {what}; save it with .contiguous()")
            array = np.array(array, order="C")
        arrays[name] = array
    return arrays


def _view(flat: np.ndarray, tensor: Tensor, name: str, path: StrPath) -> np.ndarray:
    """The tensor as a view of its storage `flat`; InputError if it reaches beyond the storage."""
    if 0 in tensor.shape:
        return np.empty(tensor.shape, flat.dtype)
    # The stride of a dimension of size 1 is never used, and may be any number.
    strides = [stride if size > 1 else 0 for size, stride in zip(tensor.shape, tensor.strides, strict=True)]
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, strides, strict=True))
    if last >= flat.size:
        raise damaged(path, f"tensor {printable(name)!r} reaches number {last} of a storage of {flat.size}")
    item = flat.itemsize
    if strides == [math.prod(tensor.shape[i + 1 :]) if size > 1 else 0 for i, size in enumerate(tensor.shape)]:
        return flat[tensor.offset : last + 1].reshape(tensor.shape)
    return np.ndarray(tensor.shape, flat.dtype, flat, tensor.offset * item, [stride * item for stride in strides])


class _Archive:
    """The zip archive of a checkpoint: entries by name within its one top folder, each checked before it is read."""

    def __init__(self, file: BinaryIO, path: StrPath):
        self.file, self.path = file, path
        self.size = os.fstat(file.fileno()).st_size
        try:
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
        except Exception:  # zipfile raises many kinds on damaged bytes; all mean the same to the user
            raise damaged(path, "the zip directory at its end is missing or broken") from None
        pickles = [entry.filename for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            what = "is a zip, but not a checkpoint of torch.save (no single data.pkl)"
            raise InputError(f"{printable(path)}: {what}; give a .safetensors, .pth or .pt file")
        folder = pickles[0][: -len("data.pkl")]
        self.entries = {entry.filename[len(folder) :]: entry for entry in entries if entry.filename.startswith(folder)}
        if len({entry.filename for entry in entries}) != len(entries):
            raise damaged(path, "the zip holds two entries of one name")
        if "constants.pkl" in self.entries:
            raise InputError(
                f"{printable(path)}: is a TorchScript archive, which is code; save model.state_dict() instead"
            )
        self.order = "<"
        if "byteorder" in self.entries:
            order = self.read("byteorder").tobytes().strip()
            if order not in (b"little", b"big"):
                raise damaged(path, f"its byteorder is {printable(order)}, neither little nor big")
            self.order = "<" if order == b"little" else ">"

    def storage(self, storage: Storage) -> np.ndarray:
        """The numbers of a storage, 1-d; floats widened to float32."""
        code = "u2" if storage.code == "bf" else storage.code
        dtype = np.dtype(self.order + code)
        name = f"data/{storage.key}"
        data = self.read(name, expected=storage.count * dtype.itemsize).view(dtype)
        return bfloat16_to_float32(data) if storage.code == "bf" else to_float32(data)

    def read(self, name: str, expected: int | None = None) -> np.ndarray:
        """The bytes of one entry, uint8. Its size is checked before memory is allocated, its checksum afterwards."""
        label = f"entry {printable(name)!r}"
        entry = self.entries.get(name)
        if entry is None:
            raise damaged(self.path, f"{label} is missing")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size != entry.compress_size:
            what = f"{label} is compressed or encrypted, which torch.save never does"
            raise InputError(f"{printable(self.path)}: {what}; save the file again with torch.save")
        if expected is not None and entry.file_size != expected:
            raise damaged(self.path, f"{label} has {entry.file_size} bytes where its tensors need {expected}")
        start = self._data_start(entry, label)
        if start + entry.file_size > self.size:
            raise damaged(self.path, f"{label} reaches beyond the end of the file")
        data = np.empty(entry.file_size, np.uint8)
        self.file.seek(start)
        checksum = 0
        for begin in range(0, data.size, CHUNK):
            chunk = data[begin : begin + CHUNK]
            self.file.readinto(chunk)
            checksum = zlib.crc32(chunk, checksum)
        if checksum != entry.CRC:  # so too if the file has been truncated since it was opened
            raise damaged(self.path, f"{label} does not match its checksum")
        return data

    def _data_start(self, entry: zipfile.ZipInfo, label: str) -> int:
        """The offset of the entry's bytes, behind its local header: only that header tells its own length."""
        header = b""
        if 0 <= entry.header_offset <= self.size - 30:
            self.file.seek(entry.header_offset)
            header = self.file.read(30)
        if len(header) != 30 or header[:4] != b"PK\x03\x04":
            raise damaged(self.path, f"{label} has no zip header")
        return (
            entry.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:], "little")
        )
