"""The commands models, convert, warmup and doctor: functions of parsed arguments that return the exit code."""

from __future__ import annotations

import argparse
import math
import os
import time

from ..errors import InputError, did_you_mean, printable
from ..reports.report import Column, Table
from . import tell
from .network import network_arguments

WARMUP_MODELS = (
    "digits",
    "mobilenetv2_article",
    "mobilenet_v2",
    "mobilenetv2_140",
    "mobilenetv3_small_100",
    "resnext50_32x4d",
    "vit_b_32",
)


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
        options = network_arguments(arguments, name) | ({"exact": True} if arguments.exact else {})
        model = create_model(name, "random", threads=arguments.threads, **options)
        for size, batch in product(arguments.sizes or [model.preprocessing.crop], arguments.batches):
            height, width = (size, size) if isinstance(size, int) else size
            model(np.zeros((batch, model.channels, height, width), np.float32))
    print(f"{len(names)} {'network' if len(names) == 1 else 'networks'} ready in {time.perf_counter() - start:.1f} s")
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """Print a checkup of this installation; 1 if something is wrong.

    Each section is printed as soon as it is done, so that a crash in native code says where it was.
    """
    from functools import partial

    from ..doctor import computer, engine
    from ..doctor.checkup import examine, section_text
    from ..doctor.software import software

    def show(title: str, facts: dict) -> None:
        print(section_text(title, facts), end="\n\n", flush=True)

    threads = arguments.threads
    sections = (
        ("software", software),
        ("computer", computer.computer),
        ("target", computer.target),
        ("threads", partial(computer.threads, asked=threads)),
        ("memory", computer.memory),
        ("kernel_cache", engine.kernel_cache),
        ("executable_memory", engine.executable_memory),
        ("speed", partial(engine.speed, threads=threads)),
        ("self_test", partial(engine.self_test, threads=threads)),
    )
    if arguments.json:
        checkup = examine(sections)
        print(checkup.to_json())
    else:
        checkup = examine(sections, show)
        print(checkup.verdict())
    return 0 if checkup.healthy else 1
