"""Files that lie together: the weights of a folder or a hub repository, the shards of an index, config.json."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..errors import InputError, damaged, printable
from .buffer import Buffer, open_file
from .json_text import MAX_BYTES, parse_object

CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"  # HF transformers' word on images, beside its config.json
# In the order in which the libraries of the hub take them.
PUBLISHED = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
_NO_WEIGHTS = ("optimizer.", "scheduler.", "scaler.", "training_args.", "rng_state", "random_states")
_OTHER_FOLDERS = {  # a file in it -> what such a folder is, and the next step
    ".metadata": (
        "is a distributed checkpoint of torch; make one file of it with "
        "'python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE'"
    ),
    "saved_model.pb": "is a TensorFlow SavedModel; save the weights as .safetensors, or pass a mapping {name: array}",
    "data.pkl": "is an unpacked checkpoint of torch; download the .pth file again, and do not unpack it",
}
_MOST_SHARDS = 1000


def choose_file(names: Iterable[str], where: str) -> tuple[str, list[str]]:
    """Which of the files of `where` (a folder or a hub repository) holds the weights, and notes if that is a guess.

    It is model.safetensors, its index of shards, pytorch_model.bin or its index; without these the only file whose
    suffix is that of weights, or the only .safetensors file. Raises InputError if there is no such file or several.
    """
    names = sorted(name for name in names if "/" not in name)  # a repository also lists what its folders hold
    for name in PUBLISHED:
        if name in names:
            return name, []
    found = [name for name in names if name.endswith(_SUFFIXES) and not name.startswith(_NO_WEIGHTS)]
    best = [name for name in found if name.endswith(".safetensors")]
    if len(found) != 1 and len(best) != 1:
        other = next((_OTHER_FOLDERS[name] for name in names if name in _OTHER_FOLDERS), None)
        if found:
            listed = ", ".join(map(printable, found[:10])) + (", ..." if len(found) > 10 else "")
            raise InputError(f"{where}: holds several weight files, {listed}; give the path of one")
        raise InputError(
            f"{where}: " + (other or f"has no {PUBLISHED[0]}, {PUBLISHED[2]} or other weight file; give its path")
        )
    chosen = found[0] if len(found) == 1 else best[0]
    return chosen, [f"takes {printable(chosen)}, the only weight file of this kind there"]


def shards_of(index: Buffer) -> list[str] | None:
    """The file names in an index of shards, each once; None if `index` is other JSON.

    Raises InputError if it is damaged, or names anything but files beside it.
    """
    try:
        table = parse_object(index.data[: MAX_BYTES + 1]).get("weight_map")
    except ValueError as error:
        raise damaged(index.name, f"the JSON in it is not valid ({printable(error)})") from None
    if table is None:
        return None
    if not isinstance(table, dict) or not all(isinstance(shard, str) for shard in table.values()):
        raise damaged(index.name, "its weight_map is not a table of file names")
    shards = sorted(set(table.values()))
    for shard in shards:
        if os.path.basename(shard) != shard or shard in ("", ".", "..") or "\\" in shard or not shard.isprintable():
            raise damaged(index.name, f"its weight_map names {printable(shard)!r}, which is no file beside it")
    if len(shards) > _MOST_SHARDS:
        raise damaged(index.name, f"its weight_map names {len(shards)} files")
    return shards


def read_config(folder: str) -> tuple[dict | None, list[str]]:
    """The object in config.json of a folder, None without one, and notes on files that cannot be read.

    One of HF transformers, known by its "model_type", gets what preprocessor_config.json holds, under the key
    "preprocessor_config".
    """
    config, notes = _read_object(folder, CONFIG)
    if is_of_transformers(config):
        processor, more = _read_object(folder, PROCESSOR)
        notes += more
        if processor is not None:
            config = {**config, "preprocessor_config": processor}
    return config, notes


def is_of_transformers(config: dict | None) -> bool:
    """Whether a config.json is one of HF transformers, which may have a preprocessor_config.json beside it."""
    return bool(config) and "model_type" in config


def _read_object(folder: str, name: str) -> tuple[dict | None, list[str]]:
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        return None, []
    try:
        return parse_object(open_file(path).data[: MAX_BYTES + 1], unique=False), []
    except ValueError as error:  # of the text, or an InputError of the file
        return None, [f"ignores {name} beside the weights, which cannot be read ({printable(error)})"]
