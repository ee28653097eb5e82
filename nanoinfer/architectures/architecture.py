"""Architecture: how to build the graph of one network, prepare its images and find its weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ..graph import Graph
from ..graph.variants import with_channels, without_head
from ..preprocessing import Preprocessing
from .dialect import Dialect


@dataclass(frozen=True)
class Architecture:
    """One row of MODELS.

    build: makes the graph from `arguments`. arguments: a default for each of its parameters.
    labels: the class names, a table in `nanoinfer.data`.
    weights: the default source, "hub:owner/repository" or "package:file" for a file that ships with the package; None
        if no repository holds tensors under these names.
    dialects: other names under which files hold the network's tensors.
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
    dialects: tuple[Dialect, ...] = ()

    def graph(self, **arguments) -> Graph:
        """The graph with some arguments changed: `graph(num_classes=10)`.

        Every network takes two more: num_classes=0 leaves the head out, and `in_chans` is the number of channels of the
        input. Raises ValueError for an argument that the network does not have, or a value that leaves a layer empty.
        """
        channels = arguments.pop("in_chans", 3)
        unknown = [name for name in arguments if name not in self.arguments]
        if unknown:
            raise ValueError(f"{self.name} has no argument {', '.join(unknown)}; it has {', '.join(self.arguments)}")
        headless = arguments.get("num_classes") == 0
        graph = self.build(**{**self.arguments, **arguments, **({"num_classes": 1} if headless else {})})
        graph = without_head(graph) if headless else graph
        return graph if channels == 3 else with_channels(graph, channels)
