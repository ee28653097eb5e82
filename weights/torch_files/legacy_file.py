"""Checkpoints of torch before 1.6, and of torch.save(..., _use_new_zipfile_serialization=False): a row of pickles.

They are a magic number, the version of the format, what machine wrote the file, the saved object, and the keys of its
storages. The storages follow in the order of the keys: each a count (8 bytes, little-endian), then its numbers,
little-endian whatever the machine. Many of torchvision's files are such, since they have not changed since 2019.
"""

from __future__ import annotations

import io

import numpy as np

from ...errors import InputError, damaged, printable
from ..buffer import Buffer
from .pickle_data import MAX_BYTES, read_pickle, too_long
from .pickle_objects import ITEM_SIZES, Placeholder, Storage
from .state_dict import choose_state_dict
from .tensors import arrays_of

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001


def read_legacy_file(buffer: Buffer, key: str | None = None) -> tuple[dict[str, np.ndarray], list[str], str | None]:
    """({name: C-contiguous array} in the order of the state dict, notes, what the trainer calls the network).

    `key` is an entry of the saved object, None for the usual ones. Raises InputError if the file is damaged, or its
    weights are anything but dense tensors of real numbers. The format has no checksums.
    """
    # Pickles come first, and their size is limited; so nothing reads or copies what lies behind.
    file = io.BytesIO(buffer.data[:MAX_BYTES])
    magic, _ = _next_pickle(file, buffer)
    if magic != _MAGIC:
        raise InputError(f"{buffer.name}: {_what_it_is(magic)}")
    version, _ = _next_pickle(file, buffer)
    if version != _VERSION:
        raise damaged(buffer.name, f"the version of its format is not {_VERSION}")
    _next_pickle(file, buffer)  # sizes of integers and the byte order of the machine, which say nothing
    root, storages = _next_pickle(file, buffer)
    keys, _ = _next_pickle(file, buffer)
    starts = _starts(keys, storages, file.tell(), buffer)

    def find(storage: Storage, size: int) -> int:
        start, found = starts.get(storage.key, (0, -1))
        if found != size:
            raise damaged(buffer.name, f"storage {printable(storage.key)!r} is missing or has another size")
        return start

    state, notes, said = choose_state_dict(root, key, buffer.name)
    return arrays_of(state, buffer, find), notes, said


def _next_pickle(file: io.BytesIO, buffer: Buffer) -> tuple[object, dict[str, Storage]]:
    try:
        return read_pickle(file, buffer.name)
    except InputError:
        if file.tell() == MAX_BYTES < len(buffer.data):
            raise too_long(buffer.name, f"{MAX_BYTES // 2**20} MiB") from None
        raise


def _starts(keys: object, storages: dict[str, Storage], start: int, buffer: Buffer) -> dict[str, tuple[int, int]]:
    """{key: (first byte, bytes)} of the storages, which begin at byte `start`."""
    starts = {}
    if not isinstance(keys, list):
        raise damaged(buffer.name, "it has no list of storages")
    for key in keys:
        if not isinstance(key, str) or key not in storages or key in starts:
            label = printable(repr(key)) if isinstance(key, str) else "without a name"
            raise damaged(buffer.name, f"no tensor uses its storage {label}, or it appears twice")
        storage = storages[key]
        count = int.from_bytes(buffer.data[start : start + 8], "little")
        if count != storage.count:
            raise damaged(
                buffer.name, f"storage {printable(key)!r} has {count} numbers where its tensors need {storage.count}"
            )
        size = count * _item_size(storage, buffer)
        if start + 8 + size > len(buffer.data):
            raise damaged(buffer.name, f"storage {printable(key)!r} reaches beyond the end of the file")
        starts[key] = (start + 8, size)
        start += 8 + size
    return starts


# Sizes of the numbers of storages that are not supported, since they may lie before others that are.
_OTHER_SIZES = {
    "torch.ComplexDoubleStorage": 16,
    "torch.ComplexFloatStorage": 8,
    "torch.QInt8Storage": 1,
    "torch.QUInt8Storage": 1,
    "torch.QInt32Storage": 4,
    "torch.QUInt4x2Storage": 1,
    "torch.QUInt2x4Storage": 1,
}


def _item_size(storage: Storage, buffer: Buffer) -> int:
    size = ITEM_SIZES.get(storage.code) or _OTHER_SIZES.get(storage.kind)
    if size is None:
        what = f"holds a {printable(storage.kind)}, whose numbers are of a kind that is not supported"
        raise InputError(f"{buffer.name}: {what}; save dense float, int or bool tensors instead")
    return size


def _what_it_is(first: object) -> str:
    """The problem and the next step for a pickle that torch.save has not written; `first` is its object."""
    what = "is a plain pickle, not a checkpoint of torch.save"
    if isinstance(first, dict) and any(_is_array(value) for value in first.values()):
        return f"{what}: its arrays are NumPy's; load it with pickle and pass the mapping as the weights"
    return f"{what}, and is never executed here; load it with what wrote it and save the weights as .safetensors"


def _is_array(value: object) -> bool:
    return isinstance(value, Placeholder) and value.name.startswith("numpy.")
