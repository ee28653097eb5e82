"""What users hold: create_model and Model."""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np

from . import runtime
from .errors import InputError, did_you_mean
from .graph.variants import embedding, head, input_weights
from .machine import Machine, host
from .plan import Program
from .preprocessing import Preprocessing
from .pretrained import Pretrained, load
from .pretrained.labels import most_probable
from .sections import Section, Sections

if TYPE_CHECKING:
    from .reports.profile import Profile
    from .reports.summary import Summary

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
    exact: bool = False,
    preprocessing: Preprocessing | Mapping | None = None,
    labels: Sequence[str] | str | os.PathLike | None = None,
    share_weights: bool = False,
    **architecture_arguments,
) -> Model:
    """A network ready to run.

    `name` is one of `list_models()`, or with the tag of published weights, "resnet50.a1_in1k". `weights` is a path
    (.safetensors, .pth, .pt), a mapping {name: array}, "hub:owner/repository", "random" or "random:SEED" (no file; for
    shapes and timing), or None for the weights that the tag names, without a tag the architecture's default.
    `threads` overrides NANOINFER_NUM_THREADS, OMP_NUM_THREADS and the number of cores.

    With `exact`, every output of every layer is a sum of its own: no two pixels share rounding errors, and logits have
    the same bits with taps and without. That takes longer where layers are wide.

    With `share_weights`, packed weights lie in a file of the kernel cache, and processes of the machine that make the
    same model hold them in memory once. Making the model reads all weights.

    `preprocessing` and `labels` (names, or the path of a file of them) are those of the weights unless given; a mapping
    as `preprocessing` changes some of its fields. `num_classes` (0: no head, the network gives embeddings), `in_chans`,
    `image_size` and further arguments (width, width_mult ...) go to the architecture; what is not given is read off the
    tensors' shapes.

    Raises InputError for an unknown name or argument and for weights that do not fit or belong to another network.
    """
    if threads is not None and not _is_count(threads):
        raise InputError(f"threads={threads!r}: give a whole number from 1 on")
    if threads is not None and threads > runtime.most_threads():
        raise InputError(f"threads={threads}: this machine has {os.cpu_count()} cores; give at most their number")
    if num_classes is not None:
        architecture_arguments["num_classes"] = num_classes
    pretrained = load(name, weights, architecture_arguments, preprocessing=preprocessing, labels=labels)
    return Model(pretrained, threads or runtime.default_threads(), exact=exact, share_weights=share_weights)


def _is_count(value) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= 1


class Model:
    """A network with its weights.

    Calls may come from any thread. Those of one model run one after another, since they share its memory; calls of
    different models run side by side.
    """

    def __init__(
        self, pretrained: Pretrained, threads: int, *, machine: Machine | None = None, pass_count: int | None = None,
        exact: bool = False, share_weights: bool = False,
    ):  # fmt: skip
        self.pretrained, self.threads, self.share_weights = pretrained, threads, share_weights
        self.architecture, self.arguments, self.graph, self.tensors, self.meaning = pretrained
        self.machine, self.pass_count, self.exact = machine or host(), pass_count, exact
        node = head(self.graph)
        self.classes = self.tensors[node.tensors["weight"]].shape[0] if node else 0
        self.channels = self.graph.parameters[input_weights(self.graph)[0]][1]
        self._lock, self._busy, self._warned = threading.RLock(), False, False
        self._sections = Sections(
            self.name, self.graph, self.tensors, threads, machine=self.machine, pass_count=pass_count, exact=exact,
            share_weights=share_weights,
        )  # fmt: skip
        _models.add(self)

    @property
    def name(self) -> str:
        return self.architecture.name

    @property
    def preprocessing(self) -> Preprocessing:
        """How `preprocess` prepares images; its `source` says who states this."""
        return self.meaning.preprocessing

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each class; two where the head has a single logit, none without a head."""
        return self.meaning.labels

    def __reduce__(self):
        """Programs and packed weights are made again where a copy is used.

        A copy is planned for the machine where it is made, unless the model is `planned_for` another.
        """
        machine = None if self.machine is host() else self.machine
        return _copy, (self.pretrained, self.threads, {**self._options(), "machine": machine})

    def __repr__(self) -> str:
        classes = f"{self.classes} classes" if self.classes else "no head"
        return f"<nanoinfer {self.name}, {classes}, {self.threads} threads>"

    def with_passes(self, count: int | None) -> Model:
        """The same network and weights with only the first `count` graph passes; 0 runs every operator as it stands."""
        return self._with(pass_count=count)

    def planned_for(self, machine: Machine) -> Model:
        """The same network and weights, planned for another machine than the host, such as one with other caches.

        Its vectors may be wider than the host's: LLVM then makes several registers of one.
        """
        return self._with(machine=machine)

    def replica(self) -> Model:
        """The same model with a memory of its own for values, so that calls of the two run side by side.

        They share all else; so only one of them may be called at a time with an input of a new shape.
        """
        other = self._with()
        other._sections = self._sections.replica()
        return other

    def _with(self, **changes) -> Model:
        return Model(self.pretrained, self.threads, **{**self._options(), **changes})

    def _options(self) -> dict[str, object]:
        """How this model runs its network, as arguments of Model."""
        return {
            "machine": self.machine, "pass_count": self.pass_count, "exact": self.exact,
            "share_weights": self.share_weights,
        }  # fmt: skip

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
        outputs = self.graph.outputs[:1]
        together = (*outputs, *dict.fromkeys(values))
        # What taps keep apart is rounded otherwise than where it is fused, so exact logits have a program of their own.
        runs = (tuple(dict.fromkeys(values)), outputs) if self.exact and taps else (together,)
        arrays = {}
        for names in runs:
            arrays |= self._run(x, Section(self.graph.input, names))
        logits = arrays[outputs[0]]
        return (logits, {name: arrays[value] for name, value in zip(taps, values, strict=True)}) if taps else logits

    def fingerprint(self, x: np.ndarray) -> str:
        """16 hexadecimal digits, a hash of the shape and the bits of the logits of x: equal on every machine.

        It is the beginning of the SHA-256 of the text "(N, classes)" and the logits as little-endian float32, every NaN
        as the one of bits 7fc00000, since which one comes out of an operation is the machine's choice.
        """
        logits = self(x).astype("<f4")
        logits.view("<u4")[np.isnan(logits)] = 0x7FC00000
        return hashlib.sha256(str(logits.shape).encode() + logits.tobytes()).hexdigest()[:16]

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
        """Images, of any kind that `image.open_image` takes -> float32 (N, C, H, W), by `preprocessing`."""
        from .image import preprocess

        if self.channels not in (1, 3):
            raise InputError(f"{self.name} takes {self.channels} channels, which no image has; call it with arrays")
        if self.meaning.assumed and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.meaning.weights} does not say how images are prepared; assumed is {self.preprocessing.source}: "
                f"{self.preprocessing}; give a preprocessing (--resize, --mean ...) if it is another",
                stacklevel=2,
            )
        return preprocess(images, self.preprocessing)

    def top(self, logits: np.ndarray, topk: int = 5) -> list[list[tuple[str, int, float]]]:
        """For each row of logits the `topk` most probable classes, as (label, index, probability).

        A single logit is that of class 1 of two. Raises InputError for probabilities that are no numbers.
        """
        if not _is_count(topk):
            raise InputError(f"topk={topk!r}: give a whole number from 1 on")
        if not self.classes:
            raise InputError(f"{self.name} has no head here, and so no classes; use embed")
        if getattr(logits, "ndim", 0) != 2 or logits.shape[1] != self.classes:
            raise InputError(f"logits are an array (N, {self.classes}), as the model returns them")
        return most_probable(logits, self.labels, topk)

    def predict(self, images, topk: int = 5) -> list[list[tuple[str, int, float]]]:
        """Images, as `preprocess` takes them -> for each the `topk` classes as (label, index, probability)."""
        return self.top(self(self.preprocess(images)), topk)

    def embed(self, images) -> np.ndarray:
        """Images, as `preprocess` takes them, or its result -> float32 (N, D): what the head reads, pooled.

        A network without a head returns the same when it is called.
        """
        ready = isinstance(images, np.ndarray) and images.dtype == np.float32 and images.ndim == 4
        value = embedding(self.graph)
        return self._run(images if ready else self.preprocess(images), Section(self.graph.input, (value,)))[value]

    def summary(self, input_size: Sequence[int] = (1, 3, 224, 224), depth: int | None = None) -> Summary:
        """Every module's output shape, parameters and multiply-adds, as torchinfo lists them; print it."""
        from .reports.summary import summarise

        return summarise(self.name, self.graph, input_size, depth)

    def program(self, shape: tuple[int, ...]) -> Program:
        """The program for one input shape (N, 3, H, W), made if need be; print it to see every step.

        A call runs a large batch in micro-batches, with the program for the shape of one.
        """
        shape = tuple(shape)
        if len(shape) != 4 or not all(map(_is_count, shape)) or shape[1] != self.channels:
            raise InputError(f"{self.name} has no program for shape {shape}; give (N, {self.channels}, H, W)")
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
                x = np.require(x[: self._sections.micro_batch(x.shape, section)], requirements="CA")
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
                    batch = np.require(batch, requirements="CA")  # here: by now its memory is known to be there
                    program.bind_input(batch)
                    runtime.team(self.threads).run(program.table)
                    results.append({name: program.read_output(name) for name in section.outputs})
            finally:
                self._busy = False
        if len(results) == 1:
            return results[0]
        return {name: np.concatenate([result[name] for result in results]) for name in section.outputs}

    def _checked(self, x: np.ndarray, section: Section) -> np.ndarray:
        """x, of any strides, or InputError."""
        if not isinstance(x, np.ndarray):
            hint = ": x.detach().cpu().numpy()" if hasattr(x, "detach") else ""
            raise InputError(f"the input is a {type(x).__name__}; pass a NumPy array of float32{hint}")
        if x.dtype != np.float32:
            raise InputError(f"the input has dtype {x.dtype}; pass float32: x.astype(numpy.float32)")
        if section.start == self.graph.input:
            channels, (height, width) = self.channels, self.preprocessing.crop
            if x.ndim != 4:
                example = f"(1, {channels}, {height}, {width})"
                raise InputError(f"the input has shape {x.shape}; pass (N, {channels}, H, W), such as {example}")
            if x.shape[1] != channels:
                hint = "; move the channels: x.transpose(0, 3, 1, 2)" if x.shape[3] == channels else ""
                raise InputError(f"the input has {x.shape[1]} channels; pass (N, {channels}, H, W){hint}")
        if x.size == 0:
            raise InputError(f"the input has shape {x.shape} and holds nothing; pass at least one image")
        return x


def _copy(pretrained: Pretrained, threads: int, options: dict[str, object]) -> Model:
    return Model(pretrained, threads, **options)
