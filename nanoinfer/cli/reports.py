"""The commands inspect, summary, compare and profile: each makes a report, prints it and writes the files asked for."""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

from ..errors import InputError, printable
from ..reports.report import Report, Table
from . import tell
from .network import model_of, network_arguments


def inspect(arguments: argparse.Namespace) -> int:
    """Print the parameters of a network or a file, and draw them if asked."""
    from ..reports.inspect import inspect

    report = inspect(_inspected(arguments))
    tell(report.name, report.notes)
    if arguments.plot is not None:
        report.plot(arguments.plot)
    _print(report, arguments.format)
    return 0


def _inspected(arguments: argparse.Namespace):
    """The source as it is given, or a network by its name with its arguments."""
    from ..architectures import MODELS
    from ..pretrained.loading import build

    given = (arguments.num_classes, arguments.image_size, arguments.width)
    if given == (None, None, None):
        return arguments.source
    if arguments.source not in MODELS:
        raise InputError(f"{printable(arguments.source)}: is no network; leave out its arguments")
    graph = build(arguments.source, network_arguments(arguments, arguments.source))
    return SimpleNamespace(name=arguments.source, graph=graph)


def summary(arguments: argparse.Namespace) -> int:
    """Print the modules of a network, or its shape trace; no weights are needed."""
    from ..pretrained.loading import build
    from ..reports.summary import summarise

    graph = build(arguments.model, network_arguments(arguments, arguments.model))
    size = arguments.image_size or 224
    report = summarise(arguments.model, graph, arguments.input_size or (1, 3, size, size), arguments.depth)
    if arguments.trace and arguments.format == "table":
        print(report.trace)
    else:
        _print(report.trace if arguments.trace else report, arguments.format)
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Compare a network with its torch twin or with a dump; 1 if they differ."""
    from ..reports.compare import compare

    if arguments.dump and arguments.input:
        raise InputError("--dump brings its own input; leave --input out")
    model = model_of(arguments, arguments.model, arguments.weights)
    from ..reports.torch_reference import read_dump, reference_module

    if arguments.dump:
        report = compare(model, read_dump(arguments.dump))
    else:
        x = _input(model, arguments.input or "random")
        report = compare(model, reference_module(model), x)
    _print(report, arguments.format)
    return 0 if report.agrees else 1


def _input(model, source: str):
    """The network's input (1, 3, H, W): an image as predict prepares it, or reproducible noise."""
    import numpy as np

    from ..checkpoint import is_random, seed_of

    if not is_random(source):
        return model.preprocess([source])
    shape = (1, model.channels, *model.preprocessing.crop)
    return np.random.default_rng(seed_of(source, "--input")).standard_normal(shape, np.float32)


def profile(arguments: argparse.Namespace) -> int:
    """Profile one network; print the report and write the files that are asked for."""
    import numpy as np

    for path in (arguments.trace, arguments.plot, arguments.html):
        if path is not None and not os.path.isdir(os.path.dirname(path) or "."):
            raise InputError(f"{printable(path)}: no such folder; make it first")
    before = None if arguments.compare is None else _read(arguments.compare)
    model = model_of(arguments, arguments.model, arguments.weights)
    shape = _input_shape(arguments, (model.channels, *model.preprocessing.crop))
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    report = model.profile(x, arguments.repeat)
    reports = [report] if before is None else [report, _changes(before, report, arguments.compare)]
    if arguments.format in ("json", "csv"):
        reports = reports[-1:]  # machines read one document: the comparison, if there is one
    for item in reports:
        _print(item, arguments.format)
    _write_files(report, arguments)
    return 0


def benchmark(arguments: argparse.Namespace) -> int:
    """Time calls of a network, in one stream or several side by side."""
    from ..benchmark import Load, measure

    model = model_of(arguments, arguments.model, arguments.weights)
    streams = arguments.streams or (model.threads if arguments.hint == "throughput" else 1)
    if streams > model.threads:
        raise InputError(f"--streams {streams} on {model.threads} threads: give each stream a thread, or fewer streams")
    duration = arguments.duration if arguments.duration is not None else None if arguments.iterations else 5.0
    shape = _input_shape(arguments, (model.channels, *model.preprocessing.crop))
    result = measure(model, shape, Load(streams, duration, arguments.iterations, arguments.warmup))
    print(result.to_json() if arguments.format == "json" else result)
    return 0


def _input_shape(arguments: argparse.Namespace, default: tuple[int, int, int]) -> tuple[int, ...]:
    """(N, C, H, W) from --input-size and --batch-size, or else of the default (C, H, W)."""
    channels, *crop = default
    size = tuple(arguments.input_size or crop)
    if len(size) == 4 and arguments.batch_size not in (None, size[0]):
        raise InputError(f"--batch-size {arguments.batch_size} is not that of --input-size; give one of them")
    if len(size) not in (2, 4):
        raise InputError("--input-size takes the four numbers N C H W, such as 1 3 224 224, or two, H W")
    shape = size if len(size) == 4 else (arguments.batch_size or 1, channels, *size)
    if math.prod(shape) > 1 << 40:
        raise InputError(f"an input of {'x'.join(map(str, shape))} is more than memory holds; choose a smaller one")
    return shape


def _changes(before: dict, report, path: str) -> Report:
    from ..reports.profile_changes import changes_since

    try:
        return changes_since(before, report)
    except InputError as error:
        raise InputError(f"{printable(path)}: {error}") from None


def _write_files(report, arguments: argparse.Namespace) -> None:
    """The pictures of a profile: --trace, --plot and --html."""
    from ..reports.chrome_trace import chrome_trace
    from ..reports.plots import plot_roofline
    from ..reports.profile_html import page

    if arguments.trace is not None:
        _write(arguments.trace, json.dumps(chrome_trace(report)))
    if arguments.plot is not None:
        plot_roofline(report, arguments.plot)
    if arguments.html is not None:
        _write(arguments.html, page(report))


def _read(path: str) -> dict:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise InputError(
            f"{printable(path)}: not JSON; write a profile with: nanoinfer profile MODEL --format json > before.json"
        ) from None


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{printable(path)}: cannot be written ({error.strerror}); choose another place") from None


def _print(report: Report, form: str) -> None:
    """A report on standard output, in one of FORMATS."""
    if form != "table":
        print(getattr(report, f"to_{form}")())
        return
    from ..console import print_table

    for number, part in enumerate(report.parts()):
        if number:
            print()
        if isinstance(part, Table):
            print(f"{part.title}\n\n" if part.title else "", end="")
            print_table(part.shown, part.cells())
        else:
            print(*part, sep="\n")
