"""Prefixes of parameter names that wrappers of a network add."""

from __future__ import annotations

import numpy as np

# What puts each before every name: torch.compile, DataParallel and AveragedModel, Lightning's Fabric, FSDP, and the
# attribute under which a LightningModule or a class of one's own usually keeps its network. No network of this package
# has names that all begin with one of these. (The names of HF transformers begin with the network's family, such as
# "vit.", and differ in more than that.)
PREFIXES = (
    *("_orig_mod.", "module.", "_forward_module.", "_fsdp_wrapped_module.", "model.", "_model.", "net.", "network."),
    *("backbone.", "timm_model.", "base_model.", "ema_model."),
)
_MOST = 8  # prefixes in front of each other
_COUNTERS = ("n_averaged", "steps")  # of AveragedModel of torch.optim.swa_utils and of mmengine, beside "module."


def plain_names(arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """`arrays` without the prefixes that all names have, one after the other, and a note that says which."""
    removed: list[str] = []
    others = {name: array for name, array in arrays.items() if name not in _COUNTERS}
    if others and all(name.startswith("module.") for name in others):
        arrays = others
    while arrays and len(removed) < _MOST:
        prefix = next((prefix for prefix in PREFIXES if next(iter(arrays)).startswith(prefix)), None)
        if prefix is None or not all(name.startswith(prefix) and name != prefix for name in arrays):
            break
        arrays = {name[len(prefix) :]: array for name, array in arrays.items()}
        removed.append(prefix)
    return arrays, [f"removes the prefix {''.join(removed)!r} of all names"] if removed else []
