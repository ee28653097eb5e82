"""The error of logits over torch's, both against float64, for random and for adversarial checkpoints.

    python -m bench.accuracy [--models M ...] [--checkpoints N] [--kinds K ...] [--size S] [--exact] [--first SEED]

For every network and kind of checkpoint, N are made by seeds; each is run on some images by nanoinfer, by torch in
float32 and by torch in float64. A checkpoint's ratio is max|y - y64| / max|y32 - y64| over the logits. The table shows
the median, the 90th percentile and the maximum of the ratios, the largest relative error of torch and, in the last
column, the largest ratio that torch itself has in its other memory format (channels_last): where a few numbers carry
all of the error, as the open gates of squeeze-and-excite do, a ratio is the quotient of two chances, for torch, too.

The bar: no ratio above 2 where torch's own relative error is below 1e-3, and a median below 0.8 for ordinary
checkpoints. Exit code 1 says that it was missed. NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES= takes vectors of 8 lanes.
"""

from __future__ import annotations

import argparse
import copy
import math
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn

import nanoinfer
from nanoinfer.architectures import MODELS as ARCHITECTURES
from nanoinfer.cli.network import positive
from nanoinfer.machine import host

from .models import MODELS
from .references import NORMS, measure_statistics, reference, state_arrays

IMAGES = 4  # of a checkpoint: the error of one is much of a chance
MOST_RATIO = 2.0
MOST_MEDIAN = 0.8  # of ordinary checkpoints
MOST_TORCH_ERROR = 1e-3  # relative to the largest logit; above it, torch is no measure


def scale_weights(factor: float) -> Callable:
    def alter(module: nn.Module, generator: np.random.Generator) -> None:
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.mul_(factor)

    return alter


def _batch_norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]


def scale_means(module: nn.Module, generator: np.random.Generator) -> None:
    """Means that are 100 times those of the values: behind each batch norm, a bias outweighs what varies."""
    for layer in _batch_norms(module):
        layer.running_mean.mul_(100)


def tiny_variances(module: nn.Module, generator: np.random.Generator) -> None:
    """One channel in a hundred of each batch norm was constant in training."""
    for layer in _batch_norms(module):
        layer.running_var[_some(layer, generator)] = 1e-6


def zero_channels(module: nn.Module, generator: np.random.Generator) -> None:
    """A quarter of the channels behind each norm is zero, as where training has switched them off."""
    for layer in module.modules():
        if isinstance(layer, NORMS):
            off = torch.from_numpy(generator.random(layer.weight.shape[0]) < 0.25)
            layer.weight[off] = 0
            layer.bias[off] = 0


def large_gains(module: nn.Module, generator: np.random.Generator) -> None:
    """One gain in a hundred is 100 times as large; statistics are those that the layers then meet."""
    for layer in module.modules():
        if isinstance(layer, NORMS):
            layer.weight[_some(layer, generator)] *= 100
    measure_statistics(module, generator)


def _some(layer: nn.Module, generator: np.random.Generator) -> torch.Tensor:
    """One channel in a hundred."""
    channels = layer.weight.shape[0]
    return torch.from_numpy(generator.permutation(channels)[: max(1, channels // 100)])


def keep(x: np.ndarray) -> np.ndarray:
    return x


def flat(x: np.ndarray) -> np.ndarray:
    """Images of one colour each."""
    return np.ascontiguousarray(np.broadcast_to(x[..., :1, :1], x.shape))


# name: (what becomes of a random checkpoint, what becomes of a random image)
KINDS: dict[str, tuple[Callable, Callable]] = {
    "ordinary": (lambda module, generator: None, keep),
    "weights/1000": (scale_weights(1e-3), keep),
    "weights*1000": (scale_weights(1e3), keep),
    "means*100": (scale_means, keep),
    "variances=1e-6": (tiny_variances, keep),
    "zero-channels": (zero_channels, keep),
    "gains*100": (large_gains, keep),
    "constant-input": (lambda module, generator: None, flat),
    "zero-input": (lambda module, generator: None, np.zeros_like),
    "input*1000": (lambda module, generator: None, lambda x: x * np.float32(1000)),
}


@dataclass
class Result:
    """What one checkpoint of a kind gave: max|y - y64| and torch's, in both memory formats, over the largest logit."""

    network: str
    kind: str
    seed: int
    error: float
    torch_error: float
    other_torch_error: float

    @property
    def counts(self) -> bool:
        """Whether torch computes it well enough to be the measure; not where it overflows, either."""
        return self.torch_error < MOST_TORCH_ERROR

    @property
    def ratio(self) -> float:
        return _ratio(self.error, self.torch_error)

    @property
    def torch_ratio(self) -> float:
        return _ratio(self.other_torch_error, self.torch_error)


def _ratio(error: float, torch_error: float) -> float:
    if error == 0:
        return 0.0
    return error / torch_error if torch_error else math.inf


@torch.no_grad()
def measure(name: str, kind: str, seed: int, size: int, exact: bool = False, **arguments) -> Result:
    """The errors of one checkpoint on IMAGES images of `size` x `size` pixels."""
    alter, alter_input = KINDS[kind]
    generator = np.random.default_rng((seed, list(KINDS).index(kind)))
    module = reference(name, seed=seed, **arguments)
    alter(module, generator)
    x = alter_input(generator.standard_normal((IMAGES, 3, size, size), np.float32))
    options = {"exact": True} if exact else {}
    y = nanoinfer.create_model(name, state_arrays(module), **options, **arguments)(x)
    y32 = module(torch.from_numpy(x)).numpy()
    other = copy.deepcopy(module).to(memory_format=torch.channels_last)
    y_other = other(torch.from_numpy(x).to(memory_format=torch.channels_last)).numpy()
    y64 = copy.deepcopy(module).double()(torch.from_numpy(x).double()).numpy()
    with np.errstate(all="ignore"):
        largest = np.abs(y64).max()
        errors = [float(np.abs(values - y64).max() / largest) for values in (y, y32, y_other)]
    return Result(name, kind, seed, *errors)


def row(results: list[Result]) -> str:
    """A line of the table: all checkpoints of one network and kind."""
    ratios = [result.ratio for result in results if result.counts]
    head = f"{results[0].kind:16} {len(ratios):6}"
    if not ratios:
        return f"{head}        -        -        -        -        -  torch's error is too large"
    largest = max(result.torch_error for result in results if result.counts)
    figures = f"{np.median(ratios):8.2f} {np.percentile(ratios, 90):8.2f} {max(ratios):8.2f} {largest:8.1e}"
    twin = max(result.torch_ratio for result in results if result.counts)
    return f"{head} {figures} {twin:8.2f}  {', '.join(misses(results))}"


def misses(results: list[Result]) -> list[str]:
    """What misses the bar, of one network and kind."""
    over = [result for result in results if result.counts and not result.ratio <= MOST_RATIO]
    found = [f"seed {result.seed}: {result.ratio:.2f}" for result in over]
    ratios = [result.ratio for result in results if result.counts]
    if results[0].kind == "ordinary" and ratios and np.median(ratios) >= MOST_MEDIAN:
        found.append(f"median {np.median(ratios):.2f}")
    return found


def cpu_name() -> str:
    """The processor's name, as Linux gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.accuracy", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS, choices=ARCHITECTURES, metavar="MODEL")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--checkpoints", type=positive, default=10, metavar="N", help="of each kind")
    parser.add_argument("--first", type=positive, default=1, metavar="SEED", help="the first checkpoint's")
    parser.add_argument("--size", type=positive, default=224, metavar="S", help="side of the image, in pixels")
    parser.add_argument("--num-classes", type=positive, default=1000, metavar="C")
    parser.add_argument("--exact", action="store_true", help="one chain of multiply-adds for each output")
    options = parser.parse_args(argv)
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "numba", "torch", "torchvision", "timm"))
    print(f"{cpu_name()}, {host().lanes} lanes, nanoinfer {nanoinfer.__version__}, {versions}")
    failed = False
    for name in options.models:
        titles = "".join(f" {title:>8}" for title in ("median", "p90", "max", "torch", "other"))
        print(f"\n{name}\n{'kind':16} {'counts':>6}{titles}  above the bar")
        arguments = {"num_classes": options.num_classes}
        if name.startswith("vit") and options.size != 224:
            arguments["image_size"] = options.size
        for kind in options.kinds:
            seeds = range(options.first, options.first + options.checkpoints)
            results = [measure(name, kind, seed, options.size, options.exact, **arguments) for seed in seeds]
            print(row(results), flush=True)
            failed |= bool(misses(results))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
