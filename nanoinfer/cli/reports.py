"""The commands that look inside: nanoinfer inspect, summary, compare."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from difflib import get_close_matches

from ..errors import InputError
from ..reports.report import FORMATS


def add_commands(commands, positive: Callable[[str], int]) -> None:
    """Add the parsers of these commands to a set of subparsers; `positive` reads a whole number above 0."""
    text = "Count the parameters of a network or of a weight file by form: vectors, matrices, tensors."
    command = commands.add_parser("inspect", help="parameters by name, shape and form", description=text)
    command.add_argument("source", metavar="MODEL|FILE", help="a network, or a .safetensors or .pth file")
    command.add_argument("--plot", metavar="PIE.png", help="draw the shares as pies (needs matplotlib)")
    _add_format(command)
    command.set_defaults(run=inspect)

    text = "List a network's modules with output shapes, parameters, kernels and multiply-adds, as torchinfo does."
    command = commands.add_parser("summary", help="modules, shapes, parameters, mult-adds", description=text)
    command.add_argument("model", metavar="MODEL", help="see 'nanoinfer models'")
    size = {"nargs": 4, "type": positive, "default": (1, 3, 224, 224), "metavar": ("N", "C", "H", "W")}
    command.add_argument("--input-size", help="default: 1 3 224 224", **size)
    command.add_argument("--depth", type=positive, metavar="D", help="show modules down to this depth (default: all)")
    command.add_argument("--trace", action="store_true", help="only the shapes after each stage, in order of execution")
    _add_format(command)
    command.set_defaults(run=summary)

    text = (
        "Compare each layer with timm's or torchvision's network of that name, or with a dump of named activations; "
        "exits with 1 if a layer differs."
    )
    command = commands.add_parser("compare", help="layer by layer against torch", description=text)
    command.add_argument("model", metavar="MODEL", help="see 'nanoinfer models'")
    command.add_argument("--weights", metavar="W", help=".safetensors or .pth file, hub:OWNER/NAME or random[:SEED]")
    command.add_argument("--dump", metavar="D.npz", help="activations, as docs/compare.md shows how to write them")
    text = "an image file or random[:SEED] (default: random; with --dump, the dump's own input)"
    command.add_argument("--input", metavar="IMAGE|random", help=text)
    command.add_argument("--threads", type=positive, metavar="N", help="default: every core this process may use")
    _add_format(command)
    command.set_defaults(run=compare)


def _add_format(command: argparse.ArgumentParser) -> None:
    command.add_argument("--format", choices=FORMATS, default="table", help="default: table")


def inspect(arguments: argparse.Namespace) -> int:
    """Print the parameters of a network or a file, and draw them if asked."""
    from ..reports.inspect import inspect

    value = inspect(arguments.source)
    if arguments.plot is not None:
        value.plot(arguments.plot)
    _print(value, arguments.format)
    return 0


def summary(arguments: argparse.Namespace) -> int:
    """Print the modules of a network, or its shape trace; no weights are needed."""
    from ..architectures import MODELS
    from ..reports.summary import summarise

    name = arguments.model
    if name not in MODELS:
        nearest = get_close_matches(name, list(MODELS), 3, 0.4)
        hint = f"did you mean {', '.join(nearest)}?" if nearest else "'nanoinfer models' lists them"
        raise InputError(f"no model is called {name!r}; {hint}")
    value = summarise(name, MODELS[name].graph(), arguments.input_size, arguments.depth)
    if arguments.trace and arguments.format == "table":
        print(value.trace)
    else:
        _print(value.trace if arguments.trace else value, arguments.format)
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Compare a network with its torch twin or with a dump; 1 if they differ."""
    from ..model import create_model
    from ..reports.compare import compare

    if arguments.dump and arguments.input:
        raise InputError("--dump brings its own input; leave --input out")
    model = create_model(arguments.model, arguments.weights, threads=arguments.threads)
    from ..reports.torch_reference import read_dump, reference_module

    if arguments.dump:
        value = compare(model, read_dump(arguments.dump))
    else:
        x = _input(model, arguments.input or "random")
        value = compare(model, reference_module(model), x)
    _print(value, arguments.format)
    return 0 if value.agrees else 1


def _input(model, source: str):
    """What the network reads: an image as predict prepares it, or reproducible noise."""
    if source.split(":")[0] != "random":
        return model.preprocess([source])
    import numpy as np

    from ..checkpoint import seed_of

    shape = (1, 3, *model.architecture.preprocessing.crop)
    return np.random.default_rng(seed_of(source, "--input")).standard_normal(shape, np.float32)


def _print(value, kind: str) -> None:
    if kind != "table":
        print(getattr(value, f"to_{kind}")())
        return
    from .. import console as report

    for line in value.heading():
        print(line)
    if value.heading():
        print()
    report.print_table(value.columns, value.cells())
    if value.footing():
        print()
    for line in value.footing():
        print(line)
