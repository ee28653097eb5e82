"""read_weights: a path, a mapping or a hub name -> the arrays by name, and what is said about them."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ..errors import InputError, printable
from .arrays import StrPath, to_float32

Arrays = dict[str, np.ndarray]

# First bytes of files that are given by mistake -> the problem and the next step.
_OTHER_CONTENT = (
    (
        b"version https://git-lfs",
        "is a Git LFS pointer, not the weights; run 'git lfs pull' or download the file itself",
    ),
    (b"<", "is a web page or XML, not weights; download the file itself (the 'raw' or 'download' link)"),
    (b"\x93NUMPY", "is one NumPy array without a name; pass a mapping {name: array} instead"),
    (b"\x89HDF", "is an HDF5 file; save the weights as .safetensors, or pass a mapping {name: array}"),
    (b"\x1f\x8b", "is gzip-compressed; decompress it first"),
)


class WeightSource(NamedTuple):
    """Named arrays, and what belongs to them.

    `notes` are sentences of one line each that say what the reader chose or stripped, empty if it had no choice.
    `config` is the parsed config.json of the hub repository, of the folder or beside the file, None if there is none.
    It comes from outside: any JSON object, of any content. `name` names the source in messages.
    """

    arrays: Arrays
    notes: tuple[str, ...]
    config: dict | None
    name: str


def load_weights(source: StrPath | Mapping) -> Arrays:
    """The arrays of `read_weights` alone: {name: array}, in the order of the file."""
    return read_weights(source).arrays


def read_weights(source: StrPath | Mapping) -> WeightSource:
    """Read named arrays from `source`.

    source: one of
        a path to a .safetensors, .pth or .pt file; the content decides which, not the suffix;
        a mapping {str: array-like of numbers} (NumPy arrays, torch tensors on any device, lists, an open .npz);
        "hub:owner/name" or "hub:owner/name@revision": a model on the Hugging Face hub (see hub.py).

    Returns {name: array} in the order of the file. Every floating dtype (float16, bfloat16, float64) becomes float32;
    integers and bools keep theirs. Arrays are C-contiguous, may be read-only and may share memory: with each other
    (tied weights), with a mapping's own arrays, or with the file, since a .safetensors file is mapped and not read.
    So replace such a file by renaming a new one over it (as save_safetensors does); do not truncate it while in use.

    Raises InputError, in one line that says what to do next, if the source is missing, unreadable or damaged.
    """
    if isinstance(source, Mapping):
        return WeightSource(_from_mapping(source), (), None, "weights")
    if isinstance(source, str) and source.startswith("hub:"):
        from .hub import hub_file

        path = hub_file(source[len("hub:") :])
        return WeightSource(_from_file(path), (), _config_beside(path), printable(source))
    if isinstance(source, (str, os.PathLike)):
        path = os.fsdecode(source)
        return WeightSource(_from_file(path), (), _config_beside(path), printable(path))
    raise InputError(
        f"weights cannot be a {type(source).__name__}; give a path, a mapping of arrays or 'hub:owner/name'"
    )


def _config_beside(path: str) -> dict | None:
    """The config.json in the folder of `path`, None without one."""
    try:
        with open(os.path.join(os.path.dirname(path), "config.json"), "rb") as file:
            config = json.loads(file.read(2**20))
    except (OSError, ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) else None


def _from_file(path: str) -> Arrays:
    """The arrays of a file, by the reader for its first bytes."""
    name = printable(path)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            with open(path, "rb") as file:
                start = file.read(64)
    except FileNotFoundError:
        raise InputError(f"{name}: no such file; check the path (a hub model is written hub:owner/name)") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{name}: cannot be read ({reason}); check the path and its permissions") from None
    if stat.S_ISDIR(mode):
        raise InputError(f"{name}: is a folder; give the path of a .safetensors, .pth or .pt file in it")
    if not stat.S_ISREG(mode):
        raise InputError(f"{name}: is not a regular file; save the weights to a file and give its path")
    if not start:
        raise InputError(f"{name}: the file is empty; download or save it again")
    if start[:2] == b"PK":
        from .torch_zip import read_torch_zip

        return read_torch_zip(path)
    if start[8:9] == b"{":
        from .safetensors_file import read_safetensors

        return read_safetensors(path)
    raise InputError(f"{name}: {_what_it_is(path, start)}")


def _what_it_is(path: str, start: bytes) -> str:
    """The problem and the next step for a file that begins with `start`, neither safetensors nor a zip."""
    for magic, advice in _OTHER_CONTENT:
        if start.startswith(magic):
            return advice
    suffix = os.path.splitext(path)[1].lower()
    if start[:1] == b"\x80":  # the first opcode of a pickle; before torch 1.6 a checkpoint was a row of pickles
        return (
            "is a pickle or a checkpoint of torch before 1.6, which is never executed here; "
            "load it with torch and re-save it with torch.save(state_dict, path) from torch>=1.6"
        )
    if suffix in (".safetensors", ".pth", ".pt"):
        return f"is not a {suffix} file inside, or its beginning is damaged; download or save it again"
    return "is neither a safetensors file nor a torch checkpoint; give a .safetensors, .pth or .pt file"


def _from_mapping(mapping: Mapping) -> Arrays:
    """{str: array-like} -> {str: C-contiguous ndarray}, floats as float32; float32 arrays are not copied."""
    return {name: to_float32(array) for name, array in as_arrays(mapping).items()}


def as_arrays(mapping: Mapping) -> Arrays:
    """{str: array-like} -> {str: C-contiguous ndarray}, with their own dtypes.

    Torch tensors are recognised by their methods, so torch is never imported. Raises InputError, which names the entry,
    if a key is not a string or a value is not an array of real numbers.
    """
    arrays = {}
    for name, value in mapping.items():
        if not isinstance(name, str):
            raise InputError(
                f"weights: the key {printable(repr(name))} is not a string; name every array by its parameter"
            )
        try:
            if hasattr(value, "detach"):
                value = value.detach().cpu()
                if str(value.dtype) == "torch.bfloat16":  # NumPy has no such dtype
                    value = value.float()
            array = np.asarray(value, order="C")
            if array.dtype.name == "bfloat16":  # from the ml_dtypes package
                array = array.astype(np.float32)
        except Exception as error:  # array-likes run code of their own: any exception means "no array"
            reason = printable(error)
            raise InputError(
                f"weights: {printable(name)!r} is not an array ({reason}); convert it to float32"
            ) from None
        if array.dtype.kind not in "fiub":
            kind = f"{type(value).__name__} of dtype {array.dtype}"
            raise InputError(
                f"weights: {printable(name)!r} is a {kind}, not real numbers; convert it to float32 or remove it"
            )
        arrays[name] = array
    return arrays
