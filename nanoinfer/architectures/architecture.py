"""Architecture: how to build the graph of one network, prepare its images and find its weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ..graph import Graph

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Image -> input: resize the shorter side, crop the centre, scale to 0..1, then (x - mean) / std.

    resize: pixels of the shorter side. crop: (height, width) in pixels. mean, std: of RGB values in 0..1.
    """

    resize: int
    crop: tuple[int, int] = (224, 224)
    interpolation: Literal["bicubic", "bilinear"] = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


@dataclass(frozen=True)
class Architecture:
    """One row of MODELS.

    build: makes the graph from `arguments`. arguments: a default for each of its parameters.
    labels: the class names, a table in `nanoinfer.data`.
    weights: the default source, "hub:owner/repository" or "package:file" for a file that ships with the package; None
        if no repository holds tensors under these names.
    library: the library whose torch module of this very name the network equals; None if there is none.
    """

    name: str
    build: Callable[..., Graph]
    arguments: dict[str, object]
    preprocessing: Preprocessing
    labels: Literal["imagenet1k", "digits"]
    weights: str | None
    description: str
    library: Literal["timm", "torchvision"] | None = None

    def graph(self, **arguments) -> Graph:
        """The graph with some arguments changed: `graph(num_classes=10)`.

        Raises ValueError for an argument that the network does not have, or a value that leaves a layer empty.
        """
        unknown = [name for name in arguments if name not in self.arguments]
        if unknown:
            raise ValueError(f"{self.name} has no argument {', '.join(unknown)}; it has {', '.join(self.arguments)}")
        return self.build(**{**self.arguments, **arguments})
