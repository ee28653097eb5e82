"""The commands predict, models, convert and warmup: functions of the parsed arguments that return the exit code."""

from __future__ import annotations

import argparse
import math
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..errors import InputError, did_you_mean, printable
from ..reports.report import Column, Table
from . import fail, tell
from .predictions import PRINTERS, Prediction

DEFAULT_MODEL = "digits"  # the one network whose weights and sample images ship with the package
WARMUP_MODELS = (
    "digits",
    "mobilenetv2_article",
    "mobilenet_v2",
    "mobilenetv2_140",
    "mobilenetv3_small_100",
    "resnext50_32x4d",
    "vit_b_32",
)
PROGRESS_ABOVE = 10  # images; fewer are done before a progress bar is of use


def predict(arguments: argparse.Namespace) -> int:
    """Classify each image and print the result; an unreadable image is reported, the others still count."""
    images, topk, name = arguments.images, arguments.topk or 5, arguments.model or DEFAULT_MODEL
    if not images and name != DEFAULT_MODEL:
        raise InputError(f"no image given: nanoinfer predict photo.jpg -m {name}")
    if not images:
        images, topk = _samples(), arguments.topk or 1
    from ..console import progress_bar
    from ..model import create_model

    warnings.filterwarnings("ignore", module=r"PIL\.")  # a file's faults are said in one line, or are harmless
    model = create_model(name, arguments.weights, threads=arguments.threads, num_classes=arguments.num_classes)
    bad: list[str] = []
    with progress_bar("classifying") as progress:
        PRINTERS[arguments.format](_predictions(model, images, topk, bad, progress))
    for message in bad:
        fail(message)
    return 2 if bad else 0


def _samples() -> list[str]:
    """The sample digits, as paths from the current folder where they lie below it."""
    from ..data import FOLDER

    folder = FOLDER / "digits"
    with suppress(OSError, ValueError):  # elsewhere, or in a folder that is gone
        folder = folder.relative_to(Path.cwd())
    return [str(path) for path in sorted(folder.glob("*.png"))]


def _predictions(model, images: list[str], topk: int, bad: list[str], progress=None) -> Iterator[Prediction]:
    """One Prediction per image, as soon as it is made; messages about images that have none go into `bad`."""
    warm = False
    for done, file in enumerate(images):
        if progress and len(images) > PROGRESS_ABOVE:
            progress(done, len(images))
        try:
            x = model.preprocess([file])
        except InputError as error:
            bad.append(str(error))
            continue
        if not warm:  # the first call of a shape makes its plan, and perhaps compiles
            model(x)
            warm = True
        start = time.perf_counter()
        logits = model(x)
        milliseconds = 1000 * (time.perf_counter() - start)
        if logits.size and not math.isfinite(logits.sum(dtype="float64")):
            bad.append(f"{printable(file)}: the network's answer is no number; check the weights")
            continue
        yield Prediction(file, model.top(logits, min(topk, logits.shape[1]))[0], milliseconds)


MODEL_COLUMNS = (
    Column("name", "name"),
    Column("parameters", "parameters", "{:,}", right=True, read=lambda item: _parameter_count(item.graph())),
    Column("input", "input", right=True, read=lambda item: " x ".join(map(str, (3, *item.preprocessing.crop)))),
    Column("description", "description"),
)


def models(arguments: argparse.Namespace) -> int:
    """Print the networks that match a pattern."""
    from ..architectures import MODELS, list_models
    from ..console import print_table

    pattern, names = arguments.pattern, list_models(arguments.pattern)
    if not names:
        hint = did_you_mean(pattern.strip("*"), MODELS, otherwise=f"there are {', '.join(MODELS)}", count=5)
        raise InputError(f"no model matches {pattern!r}; {hint}")
    table = Table("", None, MODEL_COLUMNS, [MODELS[name] for name in names])
    print_table(table.shown, table.cells())
    return 0


def _parameter_count(graph) -> int:
    return sum(math.prod(shape) for shape in graph.parameters.values())


def convert(arguments: argparse.Namespace) -> int:
    """Copy named arrays from a source of weights to a new file."""
    from ..weights import read_weights, save_safetensors

    source, target = arguments.source, arguments.target
    if not target.endswith(".safetensors"):
        raise InputError(f"{printable(target)}: the name of the new file must end in .safetensors")
    if os.path.exists(source) and os.path.exists(target) and os.path.samefile(source, target):
        raise InputError(f"{printable(target)}: is the source itself; choose another name for the new file")
    weights = read_weights(source)
    if not weights.arrays:
        raise InputError(f"{printable(source)}: holds no tensors; nothing was written")
    tell(weights.name, weights.notes)
    save_safetensors(weights.arrays, target)
    print(f"{len(weights.arrays)} tensors, {os.path.getsize(target) / 1e6:.1f} MB: {printable(target)}")
    return 0


def warmup(arguments: argparse.Namespace) -> int:
    """Run each network once, with random weights, at the size its images are cropped to."""
    import numpy as np

    from ..architectures import MODELS
    from ..model import create_model

    names = arguments.models or WARMUP_MODELS
    start = time.perf_counter()
    for name in names:
        model = create_model(name, "random")
        model(np.zeros((1, 3, *MODELS[name].preprocessing.crop), np.float32))
    print(f"{len(names)} {'network' if len(names) == 1 else 'networks'} ready in {time.perf_counter() - start:.1f} s")
    return 0
