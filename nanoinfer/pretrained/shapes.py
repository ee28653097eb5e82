"""What the shapes of tensors tell of a network, and tensors made to fit one: as timm does both."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ..architectures import Architecture
from ..graph import Graph
from ..graph.variants import head, input_weights
from ..weights import WeightSource


def told_by_shapes(
    architecture: Architecture, graph: Graph, source: WeightSource, arguments: Mapping
) -> dict[str, int]:
    """Arguments that the caller leaves out and the shapes of the tensors tell: classes, channels, size of the image."""
    arrays, read, node = source.arrays, {}, head(graph)
    expected = {**graph.parameters, **graph.buffers}
    if node and "num_classes" not in arguments:
        names = list(node.tensors.values())
        weight, shape = arrays.get(node.tensors["weight"]), expected[node.tensors["weight"]]
        if weight is not None and weight.ndim == 2 and weight.shape[1] == shape[1] and weight.shape[0]:
            read["num_classes"] = len(weight)
        elif not any(name in arrays for name in names) and expected.keys() - names == arrays.keys():
            read["num_classes"] = 0
    if "in_chans" not in arguments:
        for name in input_weights(graph):
            array, (_, channels, *window) = arrays.get(name), expected[name]
            if array is not None and array.shape[2:] == tuple(window) and array.shape[1] not in (0, channels):
                read["in_chans"] = array.shape[1]
    if "image_size" in architecture.arguments and "image_size" not in arguments:
        for node in graph.nodes:
            name = node.tensors.get("position")
            if name in arrays and arrays[name].ndim == 3 and arrays[name].shape != expected[name]:
                patches, patch = arrays[name].shape[1] - 1, expected[input_weights(graph)[0]][2]
                if patches > 0 and math.isqrt(patches) ** 2 == patches:
                    read["image_size"] = math.isqrt(patches) * patch
    return {name: value for name, value in read.items() if value != {**architecture.arguments, "in_chans": 3}[name]}


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
