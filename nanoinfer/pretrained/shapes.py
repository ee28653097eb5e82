"""What the shapes of tensors tell of a network, and tensors made to fit one: as timm does both."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ..architectures import Architecture
from ..graph import Graph
from ..graph.variants import head, input_weights
from ..weights import WeightSource

Arrays = Mapping[str, np.ndarray]


def told_by_shapes(architecture: Architecture, graph: Graph, source: WeightSource, arguments: Mapping) -> dict:
    """Arguments that the caller leaves out and the shapes of the tensors tell: classes, channels, size of the image.

    `graph` is that of `arguments`. Of what the tensors do not tell, or tell as the graph has it, there is nothing.
    """
    read = {"num_classes": _classes(graph, source.arrays), "in_chans": _channels(graph, source.arrays)}
    if "image_size" in architecture.arguments:
        read["image_size"] = _image_size(graph, source.arrays)
    known = {"in_chans": 3, **architecture.arguments}
    return {key: value for key, value in read.items() if key not in arguments and value not in (None, known[key])}


def _classes(graph: Graph, arrays: Arrays) -> int | None:
    """The number of rows of the head's weight; 0 if all tensors are there but those of the head."""
    node = head(graph)
    if node is None:
        return None
    weight = arrays.get(node.tensors["weight"])
    if weight is not None and weight.ndim == 2 and weight.shape[1] == graph.parameters[node.tensors["weight"]][1]:
        return len(weight) or None
    names = set(node.tensors.values())
    body = {*graph.parameters, *graph.buffers} - names
    return 0 if body == arrays.keys() else None


def _channels(graph: Graph, arrays: Arrays) -> int | None:
    """The number of channels of the weight that reads the input, if it has its window."""
    for name in input_weights(graph):
        array, window = arrays.get(name), graph.parameters[name][2:]
        if array is not None and array.shape[2:] == window and array.shape[1]:
            return array.shape[1]
    return None


def _image_size(graph: Graph, arrays: Arrays) -> int | None:
    """The side of a square image that has as many patches as there are position embeddings (1, 1 + patches, D)."""
    patch = graph.parameters[input_weights(graph)[0]][2]
    for node in graph.nodes:
        embeddings = arrays.get(node.tensors.get("position"))
        if embeddings is not None and embeddings.ndim == 3 and embeddings.shape[1] > 1:
            side = math.isqrt(embeddings.shape[1] - 1)
            return side * patch if side * side == embeddings.shape[1] - 1 else None
    return None


def adapted(architecture: Architecture, graph: Graph, source: WeightSource, arguments: Mapping) -> WeightSource:
    """The arrays without a head, and for other input channels, where the arguments say so; as timm adapts them."""
    arrays, notes = dict(source.arrays), []
    if head(graph) is None:
        unused = head(architecture.graph(**{**arguments, "num_classes": 1})).tensors.values()
        arrays = {name: array for name, array in arrays.items() if name not in unused}
        notes.append("gives a network without a head, whose output is the embedding")
    channels = arguments.get("in_chans", 3)
    for name in input_weights(graph):
        array, (outputs, _, *window) = arrays.get(name), graph.parameters[name]
        if channels != 3 and array is not None and array.shape == (outputs, 3, *window):
            array = np.asarray(array, np.float32)
            if channels == 1:
                arrays[name] = array.sum(1, keepdims=True)
            else:
                repeated = np.tile(array, (1, math.ceil(channels / 3), 1, 1))[:, :channels]
                arrays[name] = repeated * np.float32(3 / channels)
            notes.append(f"has {name} for 3 channels, which is adapted to {channels} as in timm")
    return source._replace(arrays=arrays, notes=(*source.notes, *notes))
