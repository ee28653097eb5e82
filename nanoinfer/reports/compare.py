"""compare: every layer of a network against torch's, and the first one that differs.

The rule. The error of a layer is max|nanoinfer - torch| over max|torch|. Two correct programs round differently, and
each layer hands on, and may amplify, what came before; so a layer is judged by its own inputs. It may have an error of

    64 ulp * sqrt(n) + 8 * (error of its worst input)

where 1 ulp is 2**-23, and n the longest chain of operators since layers that were compared (1 if every layer is).
An input's error counts in absolute terms where the layer scales down: a mean that is small next to the values that it
averages has no better digits than they have. A layer beyond that, whose inputs were all within theirs, is where the
networks begin to differ; layers that it feeds are not judged again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..graph import Graph
from ..weights import InputError
from .report import Report

ROUNDING = 64 * 2.0**-23
GROWTH = 8
OUTPUT = "output"  # the network's own row, and its name in a dump


@dataclass(frozen=True)
class Layer:
    """One run of a module in both networks; errors are relative to the largest value that the reference has there.

    `module` is the one whose operator it is: a batch norm with an activation inside is seen at a child of its. `status`
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


@dataclass(frozen=True)
class Comparison(Report):
    """The layers that two networks share, in order of execution.

    `missing` are modules that the reference lacks, `unknown` those that only it has. Neither is judged.
    """

    model: str
    layers: tuple[Layer, ...]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]

    columns = ("Layer", "Operator", "Shape", ">Max error", ">Relative", ">Allowed", ">Cosine", "Status")

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

    def cells(self) -> list[tuple[str, ...]]:
        return [
            (
                layer.name,
                layer.operator,
                str(list(layer.shape)),
                f"{layer.max_error:.1e}",
                f"{layer.relative_error:.1e}",
                f"{layer.allowed:.0e}",
                f"{layer.cosine:.7f}",
                layer.status,
            )
            for layer in self.layers
        ]

    def records(self) -> list[dict]:
        return [
            {**vars(layer), "shape": list(layer.shape), "reference_shape": list(layer.reference_shape)}
            for layer in self.layers
        ]

    def to_dict(self) -> dict:
        first = self.first.name if self.first else None
        head = {"model": self.model, "agrees": self.agrees, "verdict": self.verdict, "first": first}
        return {**head, "missing": list(self.missing), "unknown": list(self.unknown), "layers": self.records()}

    def footing(self) -> list[str]:
        lines = []
        for names, what in ((self.missing, "the reference lacks"), (self.unknown, "only the reference has")):
            if names:
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                lines.append(f"not compared, as {what} them: {', '.join(names[:5])}{more}")
        return [*lines, self.verdict]


def compare(model, reference, x: np.ndarray | None = None) -> Comparison:
    """Compare a Model, layer by layer, with a torch module that has the same module names, for one input.

    `reference` is a torch module in float32, run in eval mode on x (N, 3, H, W), or a mapping {module: activation} as
    read from a dump, whose "input" is x. A module's later runs are called "name:2", "name:3" on both sides.
    The last row holds the logits as the program with all its fusions computes them; the others come from a program
    that keeps every layer's output. Raises InputError if the two have no module in common.
    """
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
    x = np.ascontiguousarray(x, np.float32)
    keys = _keys(model.graph)
    values = {key: value for key, (_, value) in keys.items()}
    arrays = model._run(x, tuple(dict.fromkeys(values.values())), model.graph.input)
    if not isinstance(reference, Mapping):
        from .torch_reference import activations

        reference = activations(reference, x)
    shared = {key: value for key, value in values.items() if key in reference}
    if not shared and OUTPUT not in reference:
        raise InputError(f"{model.name} and its reference have no module name in common; {_some_names(reference)}")
    judge = _Judge(model.graph)
    for key, value in shared.items():
        judge.add(key, keys[key][0], value, arrays[value], reference[key])
    if OUTPUT in reference:
        judge.add(OUTPUT, "fused program", model.graph.outputs[0], model(x), reference[OUTPUT], len(model.graph.nodes))
    missing = tuple(key for key in values if key not in reference)
    unknown = tuple(key for key in reference if key not in values and key != OUTPUT)
    return Comparison(model.name, tuple(judge.layers), missing, unknown)


def _keys(graph: Graph) -> dict[str, tuple[str, str]]:
    """Name of each run of a module -> (what computes it, its value), in order of execution."""
    producers, keys, runs, made = graph.producers(), {}, {}, set()
    for name, value in graph.calls:
        if ":" in name:
            continue
        runs[name] = runs.get(name, 0) + 1
        node = producers.get(value)
        if node is not None and value not in made:
            operator = node.attributes["activation"] if node.op == "activation" else node.op
        else:  # it hands on what another module has made, and goes by its class
            parent = any(other.startswith(f"{name}.") for other in runs)
            operator = graph.kinds.get(name, "Sequential" if parent else "Identity")
        made.add(value)
        keys[name if runs[name] == 1 else f"{name}:{runs[name]}"] = operator, value
    return keys


class _Judge:
    """Collects layers in order of execution and decides the status of each."""

    def __init__(self, graph: Graph):
        self.producers, self.layers = graph.producers(), []
        self.known: dict[str, tuple[Layer, float]] = {}  # value -> its last layer, and that layer's largest value

    def add(self, name: str, operator: str, value: str, ours: np.ndarray, theirs: np.ndarray, length: int = 0) -> None:
        """Judge one layer; `length` is for a value computed anew, by a longer chain than since the last layer."""
        theirs = np.asarray(theirs)
        sources, steps = self._sources(value)
        rounding = ROUNDING * math.sqrt(max(steps, length))
        error, relative, scale, cosine = _difference(ours, theirs)
        inputs = max((layer.relative_error for layer, _ in sources), default=0.0)
        grown = max(
            (layer.relative_error * max(1.0, of / scale if scale else 1.0) for layer, of in sources), default=0.0
        )
        allowed = rounding + GROWTH * grown
        if any(layer.status != "agrees" for layer, _ in sources):
            status = "agrees" if relative <= rounding else "follows"
        else:
            status = "agrees" if relative <= allowed else "differs"
        shapes = tuple(ours.shape), tuple(theirs.shape)
        node = self.producers.get(value)
        owner = node.output.partition(":")[0] if node is not None and value not in self.known else name
        module = owner if name.startswith(f"{owner}.") else name
        layer = Layer(name, module, operator, *shapes, error, relative, allowed, inputs, cosine, status)
        self.layers.append(layer)
        self.known[value] = layer, scale

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

        longest = max(length(value), 1)  # 1 for a module that hands on a value: its torch twin may compute
        return list(found.values()), longest


def _difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float, float]:
    """(largest error, the same over the largest value, that value, cosine). Equal infinities and NaN are no error."""
    if ours.shape != theirs.shape:
        return math.inf, math.inf, 0.0, 0.0
    a, b = (np.asarray(array, np.float64).ravel() for array in (ours, theirs))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.all(finite | same):
        return math.inf, math.inf, 0.0, 0.0
    a, b = a[finite], b[finite]
    if not a.size:
        return 0.0, 0.0, 0.0, 1.0
    error, scale = float(np.abs(a - b).max()), float(np.abs(b).max())
    norms = math.sqrt((a @ a) * (b @ b))
    cosine = float(a @ b) / norms if norms else float(error == 0)
    return error, error / scale if scale else (math.inf if error else 0.0), scale, cosine


def _some_names(reference: Mapping) -> str:
    names = [name for name in reference if name != OUTPUT]
    return f"it has {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}" if names else "it has none"
