"""read_weights: a path, a folder, bytes, a mapping or a hub name -> arrays by name, and what is said about them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from ..errors import InputError, printable
from .arrays import Arrays, StrPath, as_arrays, to_float32
from .buffer import Buffer, open_file, read_object
from .folder import choose_file, read_config, shards_of
from .names import plain_names
from .other_files import what_it_is
from .stored import in_memory

_MAX_NAME = 1000  # characters


Found = tuple[Arrays, list[str], str | None]  # arrays, notes, what a trainer calls the network


class WeightSource(NamedTuple):
    """Named arrays, and what belongs to them.

    `notes` are phrases of one line each, with the source as their subject, that say what the reader chose or removed
    ("removes the prefix 'module.' of all names"); there are none if it had no choice. `config` is the parsed
    config.json of the hub repository, of the folder or beside the file, None if there is none. It comes from outside:
    any JSON object, of any content. `name` names the source in messages. `network` is what a trainer's checkpoint calls
    its network, None if it does not.
    """

    arrays: Arrays
    notes: tuple[str, ...]
    config: dict | None
    name: str
    network: str | None = None


def load_weights(source) -> Arrays:
    """The arrays of `read_weights` alone, in memory: {name: array}, in the order of the file."""
    return in_memory(read_weights(source).arrays)


def read_weights(source: StrPath | Mapping | bytes) -> WeightSource:
    """Read named arrays from `source`.

    source: one of
        a path to a .safetensors, .pth, .pt, .bin or .ckpt file; the content decides which, not the suffix. A name
            behind the path, as in "file.pth#state_dict", is the entry of a checkpoint that holds the weights;
        a path to an index of shards (model.safetensors.index.json), whose shards lie beside it;
        a path to a folder: its model.safetensors, the index of it, pytorch_model.bin or its index, or the only weight
            file in it;
        the bytes of such a file, or an open binary file, which is read to its end;
        a mapping {str: array-like of numbers} (NumPy arrays, torch tensors on any device, lists, an open .npz);
        "hub:owner/name" or "hub:owner/name@revision": a model on the Hugging Face hub (see hub.py).

    Arrays are in the order of the file. A prefix that all names have, such as "module.", is removed. Every floating
    dtype (float16, bfloat16, float64) becomes float32; integers and bools keep theirs. Arrays are C-contiguous and may
    share memory, with each other (tied weights) or with a mapping's own arrays. Those of a file are a StoredArray where
    possible, which keeps the file open and is read when it is used. Replace a file in use by renaming a new one over it
    (as save_safetensors does): one that is written to is refused from then on.

    Raises InputError, in one line that says what to do next, if the source is missing, unreadable or damaged.
    """
    if isinstance(source, Mapping):
        arrays = {name: to_float32(array) for name, array in as_arrays(source).items()}
        return _finished(arrays, [], None, "weights")
    if isinstance(source, str) and source.startswith("hub:"):
        return _from_hub(source)
    if isinstance(source, (str, os.PathLike)):
        return _from_path(os.fsdecode(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        buffer = Buffer(bytes(source), "the given bytes")
    elif hasattr(source, "read"):
        buffer = read_object(source)
    else:
        kinds = "a path, bytes, a mapping of arrays or 'hub:owner/name'"
        advice = "pass its state_dict()" if hasattr(source, "state_dict") else f"give {kinds}"
        raise InputError(f"weights cannot be of class {type(source).__name__}; {advice}")
    arrays, notes, network = _from_buffer(buffer, "", None)
    return _finished(arrays, notes, None, buffer.name)._replace(network=network)


def _finished(arrays: Arrays, notes: list[str], config: dict | None, name: str) -> WeightSource:
    longest = max(map(len, arrays), default=0)
    if longest > _MAX_NAME:  # to look for similar names would take very long
        raise InputError(f"{name}: holds a name of {longest:,} characters; save model.state_dict() instead")
    arrays, removed = plain_names(arrays)
    return WeightSource(arrays, (*notes, *removed), config, name)


def _from_hub(source: str) -> WeightSource:
    from .hub import hub_file

    model, _, key = source.removeprefix("hub:").partition("#")
    path, notes = hub_file(model)
    arrays, choices, network = _from_file(path, key or None)
    config, faults = read_config(os.path.dirname(path))
    source = _finished(arrays, [*notes, *choices, *faults], config, printable(source))
    return source._replace(network=network)


def _from_path(source: str) -> WeightSource:
    path, key = _split_key(source)
    notes: list[str] = []
    if os.path.isdir(path):
        chosen, notes = choose_file(_names_in(path), printable(path))
        path = os.path.join(path, chosen)
    elif re.search(r"-\d+-of-\d+\.\w+$", path):
        notes = ["is one of several shards; give their folder or their index to load all of them"]
    arrays, choices, network = _from_file(path, key)
    config, faults = read_config(os.path.dirname(path))
    source = _finished(arrays, [*notes, *choices, *faults], config, printable(source))
    return source._replace(network=network)


def _split_key(path: str) -> tuple[str, str | None]:
    """A path and the entry behind its "#"; a file whose own name holds "#" is meant as it is."""
    front, mark, key = path.rpartition("#")
    is_key = mark and not os.path.exists(path) and os.path.exists(front)
    return (front, key) if is_key else (path, None)


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise InputError(f"{printable(folder)}: cannot be read ({error.strerror}); check its permissions") from None


def _from_file(path: str, key: str | None) -> Found:
    return _from_buffer(open_file(path), path, key)


def _from_buffer(buffer: Buffer, path: str, key: str | None) -> Found:
    """What a file holds, by the reader for its first bytes. `path` is empty for bytes without a file."""
    start = buffer.data[:512]
    if not start:
        raise InputError(f"{buffer.name}: the file is empty; download or save it again")
    is_header = start[8:9] == b"{"
    if is_header and start[4:8] == bytes(4):  # first, since a length may begin like a zip or a pickle
        return _from_safetensors(buffer, key)
    if start[:2] == b"PK":
        from .torch_files.zip_file import read_torch_zip

        return read_torch_zip(buffer, key)
    if start[:1] == b"\x80":
        from .torch_files.legacy_file import read_legacy_file

        return read_legacy_file(buffer, key)
    if start[:1] == b"{":
        return _from_index(buffer, path, key)
    if is_header:
        return _from_safetensors(buffer, key)
    raise InputError(f"{buffer.name}: {what_it_is(path, start)}")


def _from_safetensors(buffer: Buffer, key: str | None) -> Found:
    from .safetensors_file import read_safetensors

    _no_entries(buffer, key)
    return read_safetensors(buffer), [], None


def _no_entries(buffer: Buffer, key: str | None) -> None:
    """InputError if an entry is asked for, in a file that has none."""
    if key is not None:
        what = f"'#{printable(key)}' chooses an entry of a .pth file, and this is none"
        raise InputError(f"{buffer.name}: {what}; leave it out")


def _from_index(index: Buffer, path: str, key: str | None) -> Found:
    """The arrays of all shards that an index names, in the order of the shards."""
    _no_entries(index, key)
    shards = shards_of(index)
    if shards is None:
        raise InputError(f"{index.name}: is JSON, not weights; give a .safetensors or .pth file")
    if not path:
        raise InputError(f"{index.name}: is an index of shards; give its path, so that the shards can be found")
    arrays: Arrays = {}
    for shard in shards:
        name = os.path.join(os.path.dirname(path), shard)
        if not os.path.exists(name):
            what = f"names {shard!r}, which is not beside it"
            raise InputError(f"{index.name}: {what}; download all {len(shards)} shards into one folder")
        part, *_ = _from_buffer(open_file(name), "", None)  # no path: a shard is no index of others
        if twice := arrays.keys() & part.keys():
            raise InputError(f"{index.name}: two shards hold {printable(min(twice))!r}; download them again")
        arrays |= part
    return arrays, [], None
