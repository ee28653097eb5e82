"""compare: every layer of a network against torch's, and the first one that differs.

The rule. The error of a layer is max|nanoinfer - torch| over max|torch|. Two correct programs round differently, and
each layer passes on, and may amplify, the errors of the layers before it; so a layer is judged by its own inputs. It
may have an error of

    64 ulp * sqrt(n) + 8 * (error of its worst input)

where 1 ulp is 2**-23, and n the longest chain of operators since layers that were compared (1 if every layer is).
An input's error counts in absolute terms where the layer scales down: a mean that is small next to the values that it
averages has no better digits than they have. The networks begin to differ at a layer with a larger error whose inputs
were all within theirs; layers that it feeds are not judged again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..errors import InputError, printable
from ..graph import Graph
from .report import Column, Report, Table

ROUNDING = 64 * 2.0**-23
GROWTH = 8
OUTPUT = "output"  # the network's own row, and its name in a dump


@dataclass(frozen=True)
class Layer:
    """One run of a module in both networks; errors are relative to the largest value that the reference has there.

    `module` is the one whose operator it is: a batch norm with an activation inside is seen at its child. `status`
    is "agrees", "differs" (from here on) or "follows" (fed by a layer that differs).
    """

    name: str
    module: str
    operator: str
    shape: tuple[int, ...]
    reference_shape: tuple[int, ...]
    max_error: float
    relative_error: float
    allowed: float
    inputs_error: float
    cosine: float
    status: str


COLUMNS = (
    Column("Layer", "name"),
    Column(None, "module"),
    Column("Operator", "operator"),
    Column("Shape", "shape", lambda layer: str(list(layer.shape))),
    Column(None, "reference_shape"),
    Column("Max error", "max_error", "{:.1e}", right=True),
    Column("Relative", "relative_error", "{:.1e}", right=True),
    Column("Allowed", "allowed", "{:.0e}", right=True),
    Column(None, "inputs_error"),
    Column("Cosine", "cosine", "{:.7f}", right=True),
    Column("Status", "status"),
)


@dataclass(frozen=True)
class Comparison(Report):
    """The layers that two networks share, in order of execution.

    `missing` are modules that the reference lacks, `unknown` those that only the reference has. Neither is judged.
    """

    model: str
    layers: tuple[Layer, ...]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether every layer does."""
        return all(layer.status == "agrees" for layer in self.layers)

    @property
    def first(self) -> Layer | None:
        """The first layer that differs although its inputs agree."""
        return next((layer for layer in self.layers if layer.status == "differs"), None)

    @property
    def verdict(self) -> str:
        """One sentence."""
        layer = self.first
        if layer is None:
            worst = max(self.layers, key=lambda layer: layer.relative_error)
            return (
                f"{self.model} agrees in all {len(self.layers)} layers; the largest error is "
                f"{worst.relative_error:.1e} of the layer's largest value, at {worst.name}"
            )
        inputs = f"inputs agree to {layer.inputs_error:.0e}" if layer.inputs_error else "inputs are the same"
        if layer.shape != layer.reference_shape:
            what = f"shape {layer.shape}, not {layer.reference_shape}"
        else:
            what = f"error {layer.relative_error:.1e} where {layer.allowed:.0e} is allowed"
        return f"{layer.module}: {layer.operator} differs from here on ({what}); {inputs}"

    def tables(self) -> list[Table]:
        return [Table("", "layers", COLUMNS, self.layers)]

    def figures(self) -> dict[str, object]:
        return {
            "model": self.model,
            "agrees": self.agrees,
            "verdict": self.verdict,
            "first": self.first.name if self.first else None,
            "missing": list(self.missing),
            "unknown": list(self.unknown),
        }

    def footing(self) -> list[str]:
        lines = []
        for names, what in ((self.missing, "the reference lacks"), (self.unknown, "only the reference has")):
            if names:
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                lines.append(f"not compared, as {what} them: {', '.join(map(printable, names[:5]))}{more}")
        return [*lines, self.verdict]


def compare(model, reference, x: np.ndarray | None = None) -> Comparison:
    """Compare a Model, layer by layer, with a torch module that has the same module names, for one input.

    `reference` is a torch module in float32, run in eval mode on x (N, 3, H, W), or a mapping {module: activation} as
    read from a dump, whose "input" is x. A module's later runs are called "name:2", "name:3" on both sides.
    The last row holds the logits as the program with all its fusions computes them; the others come from a program
    that keeps every layer's output. Raises InputError if the two have no module in common.
    """
    reference, x = _reference_and_input(model, reference, x)
    runs = _runs(model.graph)
    arrays = model.values(x, [run.value for run in runs.values()])
    if not isinstance(reference, Mapping):
        from .torch_reference import activations

        reference = activations(reference, x)
    shared = [name for name in runs if name in reference]
    if not shared and OUTPUT not in reference:
        raise InputError(f"{model.name} and its reference have no module name in common; {_some_names(reference)}")
    judge = _Judge(model.graph)
    for name in shared:
        judge.add(name, runs[name], arrays[runs[name].value], reference[name])
    if OUTPUT in reference:
        logits = _ModuleRun("fused program", model.graph.outputs[0])
        judge.add(OUTPUT, logits, model(x), reference[OUTPUT], length=len(model.graph.nodes))
    missing = tuple(name for name in runs if name not in reference)
    unknown = tuple(name for name in reference if name not in runs and name != OUTPUT)
    return Comparison(model.name, tuple(judge.layers), missing, unknown)


def _reference_and_input(model, reference, x: np.ndarray | None):
    """The reference, without the input if it is a dump, and x as a C-contiguous float32 array."""
    if not hasattr(model, "graph") or not (isinstance(reference, Mapping) or hasattr(reference, "named_modules")):
        raise InputError(
            "compare takes a nanoinfer model, then a torch module or a mapping of activations, then an input"
        )
    if isinstance(reference, Mapping):
        reference = dict(reference)
        given = reference.pop("input", None)
        x = given if x is None else x
        if x is None:
            raise InputError("the dump holds no array called 'input'")
    elif x is None:
        raise InputError("a comparison with a torch module needs an input x")
    return reference, np.ascontiguousarray(x, np.float32)


def _some_names(reference: Mapping) -> str:
    names = [name for name in reference if name != OUTPUT]
    listed = ", ".join(map(printable, names[:5]))
    return f"it has {listed}{' ...' if len(names) > 5 else ''}" if names else "it has none"


class _ModuleRun(NamedTuple):
    """One run of a module: the operator that computes it, and the graph's value that it returns."""

    operator: str
    value: str


def _runs(graph: Graph) -> dict[str, _ModuleRun]:
    """{name of the run: run} in order of execution; a module's later runs are called "name:2", "name:3"."""
    producers, runs, counts, seen = graph.producers(), {}, {}, set()
    for name, value in graph.calls:
        if ":" in name:
            continue
        counts[name] = counts.get(name, 0) + 1
        node = producers.get(value)
        if node is not None and value not in seen:
            operator = node.attributes["activation"] if node.op == "activation" else node.op
        else:  # the module returns another module's value, so its class stands for its operator
            parent = any(other.startswith(f"{name}.") for other in counts)
            operator = graph.kinds.get(name, "Sequential" if parent else "Identity")
        seen.add(value)
        runs[name if counts[name] == 1 else f"{name}:{counts[name]}"] = _ModuleRun(operator, value)
    return runs


class _Judge:
    """Collects layers in order of execution and decides the status of each."""

    def __init__(self, graph: Graph):
        self.producers, self.layers = graph.producers(), []
        self.known: dict[str, tuple[Layer, float]] = {}  # value -> its last layer, and that layer's largest value

    def add(self, name: str, run: _ModuleRun, ours: np.ndarray, theirs: np.ndarray, *, length: int = 0) -> None:
        """Judge one layer. `length` is the number of operators behind `ours` if they all ran anew for it."""
        theirs = np.asarray(theirs)
        difference = _difference(ours, theirs)
        sources, steps = self._sources(run.value)
        rounding = ROUNDING * math.sqrt(max(steps, length))
        scale = difference.scale
        grown = (layer.relative_error * max(1.0, of / scale if scale else 1.0) for layer, of in sources)
        allowed = rounding + GROWTH * max(grown, default=0.0)
        if any(layer.status != "agrees" for layer, _ in sources):
            status = "agrees" if difference.relative <= rounding else "follows"
        else:
            status = "agrees" if difference.relative <= allowed else "differs"
        layer = Layer(
            name=name,
            module=self._module(name, run.value),
            operator=run.operator,
            shape=tuple(ours.shape),
            reference_shape=tuple(theirs.shape),
            max_error=difference.error,
            relative_error=difference.relative,
            allowed=allowed,
            inputs_error=max((layer.relative_error for layer, _ in sources), default=0.0),
            cosine=difference.cosine,
            status=status,
        )
        self.layers.append(layer)
        self.known[run.value] = layer, scale

    def _module(self, name: str, value: str) -> str:
        """The module whose operator computes a layer: it may be the parent of the module that returns the value."""
        node = self.producers.get(value)
        owner = node.output.partition(":")[0] if node is not None and value not in self.known else name
        return owner if name.startswith(f"{owner}.") else name

    def _sources(self, value: str) -> tuple[list[tuple[Layer, float]], int]:
        """The compared layers that `value` is computed from, and the longest chain of operators from there."""
        found, lengths = {}, {}

        def length(name: str) -> int:
            if name in self.known:
                found[name] = self.known[name]
                return 0
            if name not in self.producers:  # the input, the same on both sides
                return 0
            if name not in lengths:
                lengths[name] = 1 + max(map(length, self.producers[name].inputs))
            return lengths[name]

        longest = max(length(value), 1)  # 1 where the module returns its input: its torch twin may compute
        return list(found.values()), longest


class _Difference(NamedTuple):
    """Largest absolute error; the same over the reference's largest value; that value; cosine of the two arrays."""

    error: float
    relative: float
    scale: float
    cosine: float


def _difference(ours: np.ndarray, theirs: np.ndarray) -> _Difference:
    """Two arrays compared in float64. Equal infinities and NaN are no error; other shapes are an infinite one."""
    unlike = _Difference(math.inf, math.inf, 0.0, 0.0)
    if ours.shape != theirs.shape:
        return unlike
    a, b = (np.asarray(array, np.float64).ravel() for array in (ours, theirs))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.all(finite | same):
        return unlike
    a, b = a[finite], b[finite]
    if not a.size:
        return _Difference(0.0, 0.0, 0.0, 1.0)
    error, scale = float(np.abs(a - b).max()), float(np.abs(b).max())
    norms = math.sqrt((a @ a) * (b @ b))
    cosine = float(a @ b) / norms if norms else float(error == 0)
    return _Difference(error, error / scale if scale else (math.inf if error else 0.0), scale, cosine)
