"""What weights mean: the network that they belong to, how its images are prepared, and the names of its classes.

Read `published` (the table of weights that timm and torchvision publish) and `config` (config.json, which lies beside
weights) first, then `shapes` (what tensors tell of a network), `labels` (names of classes), and `loading`, which asks
all of them. `records` holds what they return.
"""

from .loading import load
from .records import Meaning, Pretrained

__all__ = ["Meaning", "Pretrained", "load"]
