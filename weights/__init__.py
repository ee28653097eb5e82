"""Weight files to NumPy arrays: safetensors, torch checkpoints (without torch) and the Hugging Face hub.

This package knows no graph and no kernel: it turns a source into ``{name: ndarray}`` and back. Files are data here:
no pickle is ever executed, and every size and offset is checked before memory is touched.
"""

from ..errors import InputError
from .files import load_weights
from .safetensors_file import release, save_safetensors

__all__ = ["InputError", "load_weights", "release", "save_safetensors"]
