"""The commands predict, embed, models, convert and warmup: functions of parsed arguments that return the exit code."""

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
from .network import model_of, network_arguments
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

    warnings.filterwarnings("ignore", module=r"PIL\.")  # a file's faults are said in one line, or are harmless
    model = model_of(arguments, name, arguments.weights)
    if not model.labels:
        raise InputError(f"{name} has no head with these weights, and so no classes; run: nanoinfer embed")
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


def _inputs(model, images: list[str], bad: list[str], progress=None) -> Iterator[tuple]:
    """(index, file, network input) of each image that can be read; messages about the others go into `bad`."""
    for done, file in enumerate(images):
        if progress and len(images) > PROGRESS_ABOVE:
            progress(done, len(images))
        try:
            x = model.preprocess([file])
        except InputError as error:
            bad.append(str(error))
            continue
        yield done, file, x


def _predictions(model, images: list[str], topk: int, bad: list[str], progress=None) -> Iterator[Prediction]:
    """One Prediction per image, as soon as it is made; messages about images that have none go into `bad`."""
    warm = False
    for _, file, x in _inputs(model, images, bad, progress):
        if not warm:  # the first call of a shape makes its plan, and perhaps compiles
            model(x)
            warm = True
        start = time.perf_counter()
        logits = model(x)
        milliseconds = 1000 * (time.perf_counter() - start)
        try:
            top = model.top(logits, min(topk, len(model.labels)))[0]
        except InputError as error:
            bad.append(f"{printable(file)}: {error}")
            continue
        yield Prediction(file, top, milliseconds)


def embed(arguments: argparse.Namespace) -> int:
    """Write the embedding of each image; an unreadable image is reported, and has no row, or in .npy one of NaN."""
    from ..console import progress_bar
    from .embeddings import Embedding, format_of, write

    form = format_of(arguments.format, arguments.output)
    warnings.filterwarnings("ignore", module=r"PIL\.")
    name = arguments.model or DEFAULT_MODEL
    model = model_of(arguments, name, arguments.weights)
    bad: list[str] = []
    with progress_bar("embedding") as progress:
        inputs = _inputs(model, arguments.images, bad, progress)
        embeddings = [Embedding(index, file, model.embed(x)[0]) for index, file, x in inputs]
    write(embeddings, len(arguments.images), form, arguments.output)
    for message in bad:
        fail(message)
    return 2 if bad else 0


MODEL_COLUMNS = (
    Column("name", "name"),
    Column("parameters", "parameters", "{:,}", right=True, read=lambda item: _parameter_count(item.graph())),
    Column("input", "input", right=True, read=lambda item: " x ".join(map(str, (3, *item.preprocessing.crop)))),
    Column("description", "description"),
)


WEIGHT_COLUMNS = (
    Column("name", "name"),
    Column("resize", "resize", right=True),
    Column("crop", "crop", right=True),
    Column("interpolation", "interpolation"),
    Column("mean", "mean", lambda row: " ".join(map(str, row.mean))),
    Column("top-1", "top1", "{}%", right=True, read=lambda row: row.top1 or None),
    Column("weights", "where"),
)


def models(arguments: argparse.Namespace) -> int:
    """Print the networks that match a pattern; with -v the published weights of each."""
    from ..architectures import MODELS, list_models
    from ..console import print_table

    pattern, names = arguments.pattern, list_models(arguments.pattern)
    if not names:
        hint = did_you_mean(pattern.strip("*"), MODELS, otherwise=f"there are {', '.join(MODELS)}", count=5)
        raise InputError(f"no model matches {pattern!r}; {hint}")
    tables = [Table("", None, MODEL_COLUMNS, [MODELS[name] for name in names])]
    if arguments.verbose:
        from ..pretrained.published import tags

        tables.append(Table("", None, WEIGHT_COLUMNS, [row for name in names for row in tags(name)]))
    for number, table in enumerate(table for table in tables if table.rows):
        if number:
            print()
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
    """Run each network, with random weights, at all sizes and batches; without any, one image of its own size."""
    from itertools import product

    import numpy as np

    from ..model import create_model

    names = arguments.models or WARMUP_MODELS
    start = time.perf_counter()
    for name in names:
        model = create_model(name, "random", threads=arguments.threads, **network_arguments(arguments, name))
        for size, batch in product(arguments.sizes or [model.preprocessing.crop], arguments.batches):
            height, width = (size, size) if isinstance(size, int) else size
            model(np.zeros((batch, model.channels, height, width), np.float32))
    print(f"{len(names)} {'network' if len(names) == 1 else 'networks'} ready in {time.perf_counter() - start:.1f} s")
    return 0
