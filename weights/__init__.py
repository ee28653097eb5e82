"""Weight files to NumPy arrays: safetensors, torch checkpoints (without torch) and the Hugging Face hub.

This package knows no graph and no kernel: it turns a source into {name: ndarray} and back. A file is data and never
code: no pickle is executed, and every size and offset is checked before memory is touched. Read `files` (which reader
takes a source), `buffer` (the bytes of a source), `stored` (arrays that are read when they are used), then the readers:
`safetensors_file`, the folder `torch_files`, `folder`, `hub`.
"""

from __future__ import annotations

from ..errors import InputError
from .arrays import tensors_hash
from .files import WeightSource, load_weights, read_weights
from .safetensors_file import save_safetensors
from .stored import StoredArray

__all__ = [
    "InputError", "StoredArray", "WeightSource", "load_weights", "read_weights", "save_safetensors", "tensors_hash",
]  # fmt: skip
