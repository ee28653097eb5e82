"""What is known of weights: what a config.json says, what they mean, and the network with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ..architectures import Architecture
from ..graph import Graph
from ..preprocessing import Preprocessing


class Config(NamedTuple):
    """What a config.json says; None for what it does not say.

    architecture: a name of timm's. labels: a name for each class, "" for one that has none. arguments: those of timm's
    model that change its answers.
    """

    architecture: str | None = None
    num_classes: int | None = None
    labels: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    arguments: Mapping[str, object] = {}


class Meaning(NamedTuple):
    """What belongs to a network's weights.

    weights: where they come from. labels: a name for each class, two for a single logit, none without a head. notes:
    phrases, with the weights as their subject, that say what was chosen or changed. assumed: nobody has stated the
    preprocessing.
    """

    weights: str
    preprocessing: Preprocessing
    labels: tuple[str, ...] = ()
    labels_source: str = ""
    notes: tuple[str, ...] = ()
    assumed: bool = False


class Pretrained(NamedTuple):
    """A network with its weights: the graph of its arguments, {name: float32 array} of its tensors, what they mean."""

    architecture: Architecture
    arguments: Mapping[str, object]
    graph: Graph
    tensors: dict[str, np.ndarray]
    meaning: Meaning
