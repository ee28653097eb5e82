"""What users hold: create_model and Model."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np

from . import runtime
from .architectures import Architecture, find_model
from .checkpoint import tensors_of
from .data import labels
from .errors import InputError, did_you_mean
from .graph import Graph
from .machine import Machine, host
from .plan import Program
from .sections import Section, Sections

if TYPE_CHECKING:
    from .reports.profile import Profile
    from .reports.summary import Summary

LARGEST_ARGUMENT = 100_000  # of what an architecture takes as a number: blocks, channels, pixels

_models: weakref.WeakSet[Model] = weakref.WeakSet()


def _renew_locks() -> None:
    """In a forked child: the threads that held models' locks do not exist there."""
    for model in _models:
        model._lock, model._busy = threading.RLock(), False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


def create_model(
    name: str,
    weights=None,
    *,
    num_classes: int | None = None,
    threads: int | None = None,
    **architecture_arguments,
) -> Model:
    """A network ready to run.

    `name` is one of `list_models()`. `weights` is a path (.safetensors, .pth, .pt), a mapping {name: array},
    "hub:owner/repository", "random" or "random:SEED" (no file; for shapes and timing), or None for the
    architecture's default weights. `threads` overrides NANOINFER_NUM_THREADS, OMP_NUM_THREADS and the number of cores.
    `num_classes` and further arguments (width, width_mult, image_size ...) go to the architecture.

    Raises InputError for an unknown name or argument and for weights that do not fit, with the full list of tensors.
    """
    architecture = find_model(name)
    for argument, value in (("threads", threads), ("num_classes", num_classes)):
        if value is not None and not _is_count(value):
            raise InputError(f"{argument}={value!r}: give a whole number from 1 on")
    if threads is not None and threads > runtime.most_threads():
        raise InputError(f"threads={threads}: this machine has {os.cpu_count()} cores; give at most their number")
    if num_classes is not None:
        architecture_arguments["num_classes"] = num_classes
    for argument, value in architecture_arguments.items():
        default = architecture.arguments.get(argument)
        if isinstance(default, bool) or not isinstance(default, Real):
            continue
        kind = Integral if isinstance(default, int) else Real
        if not isinstance(value, kind) or isinstance(value, bool) or not 0 < value <= LARGEST_ARGUMENT:
            whole = "whole " * (kind is Integral)
            raise InputError(
                f"{argument}={value!r}: give a {whole}number above 0 and up to {LARGEST_ARGUMENT:,}, such as {default}"
            )
    try:
        graph = architecture.graph(**architecture_arguments)
    except (TypeError, ValueError, ArithmeticError) as error:
        given = ", ".join(f"{argument}={value!r}" for argument, value in architecture_arguments.items())
        raise InputError(f"{name} cannot be built with {given}: {error}") from None
    return Model(architecture, graph, tensors_of(architecture, graph, weights), threads or runtime.default_threads())


def _is_count(value) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= 1


class Model:
    """A network with its weights. Calls may come from any thread; they run one after another."""

    def __init__(
        self,
        architecture: Architecture,
        graph: Graph,
        tensors: dict[str, np.ndarray],
        threads: int,
        *,
        machine: Machine | None = None,
        pass_count: int | None = None,
    ):
        self.architecture, self.graph, self.tensors, self.threads = architecture, graph, tensors, threads
        self.machine, self.pass_count = machine or host(), pass_count
        head = graph.producers()[graph.outputs[0]]
        self.classes = tensors[head.tensors["weight"]].shape[0]
        self._lock, self._busy = threading.RLock(), False
        self._sections = Sections(self.name, graph, tensors, threads, machine=self.machine, pass_count=pass_count)
        _models.add(self)

    @property
    def name(self) -> str:
        return self.architecture.name

    def __reduce__(self):
        """Programs and packed weights are made again where a copy is used.

        A copy is planned for the machine where it is made, unless the model is `planned_for` another.
        """
        machine = None if self.machine is host() else self.machine
        return _copy, (self.architecture, self.graph, self.tensors, self.threads, machine, self.pass_count)

    def __repr__(self) -> str:
        return f"<nanoinfer {self.name}, {self.classes} classes, {self.threads} threads>"

    def with_passes(self, count: int | None) -> Model:
        """The same network and weights with only the first `count` graph passes; 0 runs every operator as it stands."""
        return self._with(pass_count=count)

    def planned_for(self, machine: Machine) -> Model:
        """The same network and weights, planned for another machine than the host, such as one with other caches.

        Its vectors may be wider than the host's: LLVM then makes several registers of one.
        """
        return self._with(machine=machine)

    def _with(self, **changes) -> Model:
        options = {"machine": self.machine, "pass_count": self.pass_count, **changes}
        return Model(self.architecture, self.graph, self.tensors, self.threads, **options)

    def __call__(self, x: np.ndarray, taps: Iterable[str] = ()):
        """Logits (N, classes) of x, float32 (N, 3, H, W) as torch takes it.

        With `taps`, names of torch modules ("blocks.2.1"): (logits, {name: that module's output in torch's layout}).
        Raises InputError for an input that the network cannot take and for an unknown module.
        """
        taps = [taps] if isinstance(taps, str) or not isinstance(taps, Iterable) else list(taps)
        for name in taps:
            if not isinstance(name, str) or name not in self.graph.modules:
                hint = did_you_mean(str(name), self.graph.modules, otherwise="'nanoinfer summary' lists them")
                raise InputError(f"{self.name} has no module {name!r}; {hint}")
        values = [self.graph.modules[name] for name in taps]
        arrays = self._run(x, Section(self.graph.input, (self.graph.outputs[0], *dict.fromkeys(values))))
        logits = arrays[self.graph.outputs[0]]
        return (logits, {name: arrays[value] for name, value in zip(taps, values, strict=True)}) if taps else logits

    def values(self, x: np.ndarray, names: Iterable[str]) -> dict[str, np.ndarray]:
        """{name: array} in torch's layout of any values of the graph, as `print(model.graph)` names them, for x.

        Raises InputError for an input that the network cannot take, for an unknown value and for none.
        """
        names, known = [names] if isinstance(names, str) else list(names), self.graph.producers()
        for name in names:
            if name not in known and name != self.graph.input:
                hint = did_you_mean(str(name), known, otherwise="print(model.graph) shows them")
                raise InputError(f"{self.name} has no value {name!r}; {hint}")
        if not names:
            raise InputError("values takes at least one name of a value; print(model.graph) shows them")
        return self._run(x, Section(self.graph.input, tuple(dict.fromkeys(names))))

    def forward_features(self, x: np.ndarray) -> np.ndarray:
        """What the network's head reads: (N, C, h, w), or tokens (N, T, D) of a transformer."""
        return self._run(x, Section(self.graph.input, (self.graph.features,)))[self.graph.features]

    def forward_head(self, features: np.ndarray) -> np.ndarray:
        """Logits (N, classes) of what `forward_features` returned."""
        return self._run(features, Section(self.graph.features, self.graph.outputs))[self.graph.outputs[0]]

    def preprocess(self, images) -> np.ndarray:
        """Paths, PIL images or uint8 arrays (H, W, 3) -> float32 (N, 3, H, W), prepared as in training."""
        from .image import preprocess

        return preprocess(images, self.architecture.preprocessing)

    def top(self, logits: np.ndarray, topk: int = 5) -> list[list[tuple[str, int, float]]]:
        """For each row of logits the `topk` most probable classes, as (label, index, probability)."""
        if not _is_count(topk):
            raise InputError(f"topk={topk!r}: give a whole number from 1 on")
        if getattr(logits, "ndim", 0) != 2 or not logits.shape[1]:
            raise InputError("logits are an array (N, classes), as the model returns them")
        names = labels(self.architecture.labels, logits.shape[1])
        wide = logits.astype(np.float64)
        weights = np.exp(wide - wide.max(1, keepdims=True))
        probabilities = weights / weights.sum(1, keepdims=True)
        order = np.argsort(-probabilities, 1, kind="stable")[:, :topk]
        return [
            [(names[i], int(i), float(row[i])) for i in best] for row, best in zip(probabilities, order, strict=True)
        ]

    def predict(self, images, topk: int = 5) -> list[list[tuple[str, int, float]]]:
        """Paths, PIL images or uint8 arrays -> for each the `topk` classes as (label, index, probability)."""
        return self.top(self(self.preprocess(images)), topk)

    def summary(self, input_size: Sequence[int] = (1, 3, 224, 224), depth: int | None = None) -> Summary:
        """Every module's output shape, parameters and multiply-adds, as torchinfo lists them; print it."""
        from .reports.summary import summarise

        return summarise(self.name, self.graph, input_size, depth)

    def program(self, shape: tuple[int, ...]) -> Program:
        """The program for one input shape (N, 3, H, W), made if need be; print it to see every step.

        A call runs a large batch in micro-batches, with the program for the shape of one.
        """
        shape = tuple(shape)
        if len(shape) != 4 or not all(map(_is_count, shape)) or shape[1] != 3:
            raise InputError(f"{self.name} has no program for shape {shape}; give (N, 3, H, W)")
        with self._lock:
            return self._sections.program(shape, Section(self.graph.input, self.graph.outputs))

    def profile(self, x: np.ndarray, repeat: int = 50) -> Profile:
        """What every step costs for x, measured in `repeat` runs; print it, or see reports/profile.py for its fields.

        Of a large batch a micro-batch is measured; the report's input shape is that one's.
        """
        from .reports.measure import profile

        if not _is_count(repeat):
            raise InputError(f"repeat={repeat!r}: give a whole number from 1 on")
        section = Section(self.graph.input, self.graph.outputs)
        x = self._checked(x, section)
        with self._lock:
            self._enter()
            try:
                x = x[: self._sections.micro_batch(x.shape, section)]
                _, tensors = self._sections.optimised(section)
                return profile(self.name, self.program(x.shape), tensors, x, self.threads, repeat)
            finally:
                self._busy = False

    def _enter(self) -> None:
        """Mark the model as busy. RuntimeError if this thread is in a call already, which no lock makes wait."""
        if self._busy:
            raise RuntimeError(f"{self.name} is called from within its own call, such as in a signal handler")
        self._busy = True

    def _run(self, x: np.ndarray, section: Section) -> dict[str, np.ndarray]:
        """{name: array} of the section's outputs for x, in torch's layout."""
        x = self._checked(x, section)
        with self._lock:
            self._enter()
            try:  # no context manager: an exception whose traceback is kept would keep it open
                size, results = self._sections.micro_batch(x.shape, section), []
                for first in range(0, len(x), size):
                    batch = x[first : first + size]
                    program = self._sections.program(batch.shape, section)
                    program.bind_input(batch)
                    runtime.team(self.threads).run(program.table)
                    results.append({name: program.read_output(name) for name in section.outputs})
            finally:
                self._busy = False
        if len(results) == 1:
            return results[0]
        return {name: np.concatenate([result[name] for result in results]) for name in section.outputs}

    def _checked(self, x: np.ndarray, section: Section) -> np.ndarray:
        """x as a C-contiguous array, or InputError."""
        if not isinstance(x, np.ndarray):
            hint = ": x.detach().cpu().numpy()" if hasattr(x, "detach") else ""
            raise InputError(f"the input is a {type(x).__name__}; pass a NumPy array of float32{hint}")
        if x.dtype != np.float32:
            raise InputError(f"the input has dtype {x.dtype}; pass float32: x.astype(numpy.float32)")
        if section.start == self.graph.input:
            height, width = self.architecture.preprocessing.crop
            if x.ndim != 4:
                raise InputError(f"the input has shape {x.shape}; pass (N, 3, H, W), such as (1, 3, {height}, {width})")
            if x.shape[1] != 3:
                hint = "; move the channels: x.transpose(0, 3, 1, 2)" if x.shape[3] == 3 else ""
                raise InputError(f"the input has {x.shape[1]} channels; pass (N, 3, H, W){hint}")
        if x.size == 0:
            raise InputError(f"the input has shape {x.shape} and holds nothing; pass at least one image")
        return np.ascontiguousarray(x)


def _copy(architecture, graph, tensors, threads, machine, pass_count) -> Model:
    return Model(architecture, graph, tensors, threads, machine=machine, pass_count=pass_count)
