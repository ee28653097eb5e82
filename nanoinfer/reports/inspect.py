"""inspect: the parameters of a network or of a weight file, counted by form.

The form of a parameter is the rank of its squeezed shape, that is without axes of length 1: a pointwise convolution
(64, 32, 1, 1) is a matrix, a depthwise one (64, 1, 3, 3) a tensor of rank 3. Buffers (the running statistics of batch
norms) are stored beside the parameters but not trained, and count as none.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple

from ..architectures import MODELS
from ..errors import printable
from ..weights import InputError, load_weights
from .plots import new_figure, save_figure
from .report import Report, markdown_table

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # what torch calls them, in a file's names
BYTES = 4  # of a parameter in memory: float32


class Parameter(NamedTuple):
    """One tensor of a network: its checkpoint name and its shape."""

    name: str
    shape: tuple[int, ...]

    @property
    def squeezed(self) -> tuple[int, ...]:
        """The shape without axes of length 1."""
        return tuple(size for size in self.shape if size != 1)

    @property
    def number(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def form(self) -> str:
        """Scalar, Vector, Matrix or Tensor rank N."""
        rank = len(self.squeezed)
        return ("Scalar", "Vector", "Matrix")[rank] if rank < 3 else f"Tensor rank {rank}"


class Share(NamedTuple):
    """How much of a network has one form, in percent of its layers and of its numbers."""

    form: str
    of_layers: float
    of_parameters: float


@dataclass(frozen=True)
class ParameterReport(Report):
    """The parameters of one network, in torch's order (of one file: in the file's order)."""

    name: str
    layers: tuple[Parameter, ...]
    buffers: int

    columns = ("Name", "Shape", "Squeezed shape", ">Number of parameters", "Form")

    @property
    def parameters(self) -> int:
        """How many numbers a training would change."""
        return sum(layer.number for layer in self.layers)

    @property
    def mebibytes(self) -> float:
        """Their size as float32, in units of 2**20 bytes."""
        return BYTES * self.parameters / 2**20

    @property
    def shares(self) -> tuple[Share, ...]:
        """One row for each form that occurs, by rank."""
        forms = {layer.form: len(layer.squeezed) for layer in self.layers}
        shares = []
        for form in sorted(forms, key=forms.__getitem__):
            group = [layer for layer in self.layers if layer.form == form]
            numbers = sum(layer.number for layer in group)
            shares.append(Share(form, 100 * len(group) / len(self.layers), 100 * numbers / max(self.parameters, 1)))
        return tuple(shares)

    def cells(self) -> list[tuple[str, ...]]:
        return [
            (printable(layer.name), str(layer.shape), str(layer.squeezed), str(layer.number), layer.form)
            for layer in self.layers
        ]

    def records(self) -> list[dict]:
        return [
            {
                "name": layer.name,
                "shape": list(layer.shape),
                "squeezed_shape": list(layer.squeezed),
                "parameters": layer.number,
                "form": layer.form,
            }
            for layer in self.layers
        ]

    def to_dict(self) -> dict:
        return {
            "name": self.name,
            "layers": len(self.layers),
            "parameters": self.parameters,
            "mebibytes": self.mebibytes,
            "buffers": self.buffers,
            "shares": [share._asdict() for share in self.shares],
            "rows": self.records(),
        }

    def heading(self) -> list[str]:
        lines = [
            f"{self.name}: {len(self.layers)} layers, {self.parameters:,} parameters, {self.mebibytes:.3f} MiB, "
            f"{self.buffers} buffers"
        ]
        for share in self.shares:
            lines.append(f"{share.form:13} {share.of_layers:6.2f}% of layers {share.of_parameters:6.2f}% of parameters")
        return lines

    def to_markdown(self) -> str:
        """A page: the counts, the two shares, the rows."""
        shares = self.shares
        forms = [share.form for share in shares]
        size = f"[ {self.mebibytes:.3f} MiB ]"
        return "\n\n".join(
            [
                f"# {self.name} parameter information",
                f"**Number of layers: [ {len(self.layers)} ]**",
                f"**Number of parameters: [ {self.parameters / 1e6:.2f}M ] {size}**",
                f"**Number of trainable parameters: {size}**",
                "**Proportional of each form** (%)",
                markdown_table(forms, [[f"{share.of_layers:.2f}" for share in shares]]),
                "**Proportional of parameters by form** (%)",
                markdown_table(forms, [[f"{share.of_parameters:.2f}" for share in shares]]),
                "# Layer information",
                markdown_table([column.lstrip(">") for column in self.columns], self.cells()),
            ]
        )

    def plot(self, path) -> None:
        """Draw the two shares as pies into an image file; its suffix (.png, .svg, .pdf) is the format.

        Raises InputError where matplotlib is missing or does not know the format.
        """
        colours = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#999999")
        figure = new_figure(9, 4)
        figure.suptitle(f"{self.name}: {len(self.layers)} layers, {self.parameters:,} parameters")
        for axes, title, values in zip(
            figure.subplots(1, 2),
            ("share of layers", "share of parameters"),
            zip(*((share.of_layers, share.of_parameters) for share in self.shares), strict=True),
            strict=True,
        ):
            # Percentages stand in the legend: a wedge of 0.02 % has no room for its own.
            wedges, *_ = axes.pie(values, colors=colours, startangle=90, counterclock=False)
            labels = [f"{share.form}  {value:.2f}%" for share, value in zip(self.shares, values, strict=True)]
            axes.legend(wedges, labels, loc="upper center", bbox_to_anchor=(0.5, 0), frameon=False)
            axes.set_title(title)
        save_figure(figure, path)


def inspect(source) -> ParameterReport:
    """The parameters of a Model, of an architecture by its name, of a file (.safetensors, .pth) or of a mapping.

    In files and mappings buffers are known by their names; architectures know theirs.
    Raises InputError for a name that is neither, and for a file that cannot be read.
    """
    graph = getattr(source, "graph", None)
    if graph is not None:
        return _of_graph(source.name, graph)
    if isinstance(source, str) and source in MODELS:
        return _of_graph(source, MODELS[source].graph())
    if isinstance(source, str) and "." not in source and not source.startswith("hub:") and not os.path.exists(source):
        nearest = get_close_matches(source, list(MODELS), 3, 0.4)
        hint = f"did you mean {', '.join(nearest)}?" if nearest else "'nanoinfer models' lists the models"
        raise InputError(f"{printable(source)}: neither a model nor a file; {hint}")
    if not isinstance(source, (str, os.PathLike, Mapping)):
        raise InputError(f"inspect takes a model, a model's name, a path or a mapping, not {type(source).__name__}")
    name = "mapping" if isinstance(source, Mapping) else os.path.basename(os.fsdecode(source))
    shapes = {key: tuple(map(int, array.shape)) for key, array in load_weights(source).items()}
    trained = {key: shape for key, shape in shapes.items() if key.rpartition(".")[2] not in BUFFERS}
    if not trained:
        raise InputError(f"{printable(name)}: holds no parameters")
    return ParameterReport(
        printable(name), tuple(map(Parameter, trained, trained.values())), len(shapes) - len(trained)
    )


def _of_graph(name: str, graph) -> ParameterReport:
    return ParameterReport(name, tuple(map(Parameter, graph.parameters, graph.parameters.values())), len(graph.buffers))
