"""The arguments of every command, in the order in which --help lists the commands."""

from __future__ import annotations

import argparse

from .. import __version__
from ..errors import InputError
from ..reports.report import FORMATS
from . import commands, images, reports
from .network import (
    MODEL_HELP,
    WEIGHTS_HELP,
    add_image_options,
    add_network_options,
    add_run_options,
    pixels,
    positive,
    seconds,
)

SOURCE_HELP = ".safetensors, .pth or .ckpt file, file.pth#ENTRY, a folder of these or hub:OWNER/NAME"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are InputErrors."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)  # "--top" must not change its meaning with the next option

    def error(self, message: str):
        raise InputError(f"{message}; see '{self.prog} --help'")


def make_parser() -> Parser:
    """The parser of the whole command line; the command is `run` of the parsed arguments, a function of them."""
    parser = Parser(prog="nanoinfer", description="CPU inference for vision networks.")
    parser.add_argument("--version", action="version", version=f"nanoinfer {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (
        _predict,
        _embed,
        _models,
        _inspect,
        _summary,
        _compare,
        _profile,
        _benchmark,
        _convert,
        _warmup,
        _doctor,
    ):
        add(subparsers)
    return parser


PLACES_HELP = (
    "image files, folders, 'patterns*', .tar, .parquet, lists (.csv, .txt, or - for standard input) and addresses"
)


def _predict(subparsers) -> None:
    text = "Classify images. docs/batch.md has the sources and the formats."
    command = subparsers.add_parser("predict", help="classify images", description=text)
    command.add_argument("images", nargs="*", metavar="IMAGE", help=f"{PLACES_HELP}; without any, ten sample digits")
    command.add_argument("--topk", type=positive, metavar="K", help="labels for each image (default: 5)")
    command.add_argument("--labels", metavar="FILE", help="names of the classes: one on each line, or JSON")
    _add_images_options(command, "predict")
    command.set_defaults(run=images.predict)


def _embed(subparsers) -> None:
    text = (
        "Write the embedding of each image: what the network's head reads, one vector. docs/batch.md has the formats."
    )
    command = subparsers.add_parser("embed", help="images to vectors", description=text)
    command.add_argument("images", nargs="+", metavar="IMAGE", help=PLACES_HELP)
    _add_images_options(command, "embed")
    command.set_defaults(run=images.embed)


def _add_images_options(command: argparse.ArgumentParser, task: str) -> None:
    command.add_argument("-m", "--model", help=f"{MODEL_HELP} (default: {images.DEFAULT_MODEL})")
    command.add_argument("--weights", metavar="W", help=WEIGHTS_HELP)
    add_run_options(command)
    forms = ("table", *images.WRITTEN[task])
    command.add_argument("--format", choices=forms, help="default: by the suffix of FILE, or table")
    command.add_argument("-o", "--output", metavar="FILE", help="appears when it is whole (default: standard output)")
    command.add_argument("--resume", action="store_true", help="go on with FILE: skip the images whose rows it holds")
    command.add_argument("--unordered", action="store_true", help="rows as they are ready, not in the order of images")
    command.add_argument("--batch-size", type=positive, metavar="N", help="images of a call of the network")
    text = "of Parquet and CSV files (default: the first that holds images, or paths)"
    command.add_argument("--image-column", metavar="NAME", help=text)
    _add_engine_options(command)
    add_network_options(command)
    add_image_options(command)


def _add_engine_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("engine", "docs/many-machines.md says how to size workers, batches and threads.")
    text = "who computes: this process, or workers of a Ray cluster (default: local)"
    group.add_argument("--engine", choices=("local", "ray"), default="local", help=text)
    text = "a Ray cluster, as ray.init takes it (default: one on this machine, for this run)"
    group.add_argument("--address", metavar="ADDRESS", help=text)
    group.add_argument("--workers", type=positive, metavar="N", help="default: as many as there are cores for")


def _models(subparsers) -> None:
    command = subparsers.add_parser("models", help="list the networks", description="List the networks.")
    command.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="such as 'mobilenet*'")
    text = "list the published weights of each, and how their images are prepared"
    command.add_argument("-v", "--verbose", action="store_true", help=text)
    command.set_defaults(run=commands.models)


def _inspect(subparsers) -> None:
    text = "Count the parameters of a network or of a weight file by form: vectors, matrices, tensors."
    command = subparsers.add_parser("inspect", help="parameters by name, shape and form", description=text)
    command.add_argument("source", metavar="MODEL|FILE", help=f"a network, or {SOURCE_HELP}")
    command.add_argument("--plot", metavar="PIE.png", help="draw the shares as pies (needs matplotlib)")
    _add_format(command)
    add_network_options(command)
    command.set_defaults(run=reports.inspect)


def _summary(subparsers) -> None:
    text = "List a network's modules with output shapes, parameters, kernels and multiply-adds, as torchinfo does."
    command = subparsers.add_parser("summary", help="modules, shapes, parameters, mult-adds", description=text)
    command.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    size = {"nargs": 4, "type": positive, "metavar": ("N", "C", "H", "W")}
    command.add_argument("--input-size", help="default: 1 3 224 224, or what --image-size says", **size)
    command.add_argument("--depth", type=positive, metavar="D", help="show modules down to this depth (default: all)")
    command.add_argument("--trace", action="store_true", help="only the shapes after each stage, in order of execution")
    _add_format(command)
    add_network_options(command)
    command.set_defaults(run=reports.summary)


def _compare(subparsers) -> None:
    text = (
        "Compare each layer with timm's or torchvision's network of that name, or with a dump of named activations; "
        "exits with 1 if a layer differs."
    )
    command = subparsers.add_parser("compare", help="layer by layer against torch", description=text)
    command.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    command.add_argument("--weights", metavar="W", help=WEIGHTS_HELP)
    command.add_argument("--dump", metavar="D.npz", help="activations, as docs/compare.md shows how to write them")
    text = "an image file or random[:SEED] (default: random; with --dump, the dump's own input)"
    command.add_argument("--input", metavar="IMAGE|random", help=text)
    add_run_options(command)
    _add_format(command)
    add_network_options(command)
    command.set_defaults(run=reports.compare)


def _profile(subparsers) -> None:
    text = "Measure every step of a network: time, rate, and its share of what the machine allows."
    command = subparsers.add_parser("profile", help="where the time goes, step by step", description=text)
    command.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    command.add_argument("--weights", metavar="W", default="random", help="file, hub:OWNER/NAME (default: random)")
    command.add_argument("--batch-size", type=positive, metavar="N", help="default: 1")
    command.add_argument("--input-size", type=positive, nargs="+", metavar="N", help="such as 1 3 224 224, or 224 224")
    add_run_options(command)
    command.add_argument("--repeat", type=positive, default=50, metavar="N", help="runs that count (default: 50)")
    _add_format(command)
    command.add_argument("--trace", metavar="T.json", help="write a typical run as a Chrome trace, for Perfetto")
    command.add_argument("--plot", metavar="P.png", help="write the roofline as a picture")
    command.add_argument("--html", metavar="P.html", help="write tables, roofline and timeline as one web page")
    command.add_argument("--compare", metavar="BEFORE.json", help="show what changed since --format json wrote this")
    add_network_options(command)
    command.set_defaults(run=reports.profile)


def _benchmark(subparsers) -> None:
    text = (
        "Measure latency, one call after another on all threads, or throughput, streams of calls side by side on "
        "threads of their own."
    )
    command = subparsers.add_parser("benchmark", help="latency and throughput", description=text)
    command.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    command.add_argument("--weights", metavar="W", default="random", help="file, hub:OWNER/NAME (default: random)")
    command.add_argument("--hint", choices=("latency", "throughput"), default="latency", help="default: latency")
    text = "calls side by side (default: 1 for latency; for throughput, one for each thread)"
    command.add_argument("--streams", type=positive, metavar="N", help=text)
    command.add_argument("--batch-size", type=positive, metavar="N", help="images of a call (default: 1)")
    command.add_argument("--input-size", type=positive, nargs="+", metavar="N", help="such as 1 3 224 224, or 224 224")
    command.add_argument(
        "--duration", type=seconds, metavar="SECONDS", help="default: 5, or until --iterations are done"
    )
    command.add_argument("--iterations", type=positive, metavar="N", help="calls that count, of all streams together")
    command.add_argument("--warmup", type=seconds, default=1.0, metavar="SECONDS", help="before that (default: 1)")
    command.add_argument("--format", choices=("table", "json"), default="table", help="default: table")
    add_run_options(command)
    add_network_options(command)
    command.set_defaults(run=reports.benchmark)


def _convert(subparsers) -> None:
    text = "Copy the weights of a checkpoint, a folder or a model on the hub to a .safetensors file, without torch."
    command = subparsers.add_parser("convert", help=".pth to .safetensors", description=text)
    command.add_argument("source", metavar="IN", help=SOURCE_HELP)
    command.add_argument("target", metavar="OUT.safetensors")
    command.set_defaults(run=commands.convert)


def _warmup(subparsers) -> None:
    text = "Compile the kernels that networks need, so that the next start is a warm one."
    command = subparsers.add_parser("warmup", help="compile kernels ahead of time", description=text)
    command.add_argument("models", nargs="*", metavar="MODEL", help=f"default: {', '.join(commands.WARMUP_MODELS)}")
    text = "sizes of images that will come (default: the network's own)"
    command.add_argument("--sizes", nargs="+", type=pixels, metavar="N|HxW", help=text)
    text = "numbers of images in a call (default: 1)"
    command.add_argument("--batches", nargs="+", type=positive, default=[1], metavar="N", help=text)
    add_run_options(command)
    add_network_options(command)
    command.set_defaults(run=commands.warmup)


def _doctor(subparsers) -> None:
    text = (
        "Say what a bug report needs: versions, CPU, threads, memory, kernel cache, measured speed, and a self-test; "
        "exits with 1 if something is wrong."
    )
    command = subparsers.add_parser("doctor", help="check this installation", description=text)
    command.add_argument("--threads", type=positive, metavar="N", help="default: every core this process may use")
    command.add_argument("--json", action="store_true", help="for machines")
    command.set_defaults(run=commands.doctor)


def _add_format(command: argparse.ArgumentParser) -> None:
    command.add_argument("--format", choices=FORMATS, default="table", help="default: table")
