"""What the package knows about one network: how to build its graph, prepare its images and find its weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ..graph import Graph

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Image -> input: the shorter side becomes `resize`, then a centre crop (height, width), then (x - mean) / std.

    `mean` and `std` are for RGB values in 0..1.
    """

    resize: int
    crop: tuple[int, int] = (224, 224)
    interpolation: Literal["bicubic", "bilinear"] = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


@dataclass(frozen=True)
class Architecture:
    """One row of MODELS: `build(**arguments)` gives the graph; `arguments` holds a default for each of its parameters.

    `weights` is where the parameters come from by default: "hub:owner/repository", "package:file" for a file that
    ships with the package, or None where no repository holds tensors under these names. `library` has a torch module
    of this very name, to compare with; None where no library has one.
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
        """The network with some arguments changed: `graph(num_classes=10)`.

        Raises ValueError for an argument that the network does not have, or that leaves a layer without channels.
        """
        unknown = [name for name in arguments if name not in self.arguments]
        if unknown:
            raise ValueError(f"{self.name} has no argument {', '.join(unknown)}; it has {', '.join(self.arguments)}")
        return self.build(**{**self.arguments, **arguments})
