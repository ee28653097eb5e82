"""What the commands that build a network share: their arguments, the model or graph made of them, and what -v says."""

from __future__ import annotations

import argparse
import math
import re
import sys

from ..errors import printable
from . import tell

MOST = 1_000_000_000  # of anything that is counted
MODEL_HELP = "see 'nanoinfer models'"
WEIGHTS_HELP = ".safetensors or .pth file (or FILE#ENTRY), folder, hub:OWNER/NAME or random[:SEED]"
SETTINGS = ("resize", "crop", "crop_mode", "interpolation", "mean", "std")  # fields of Preprocessing


def positive(text: str) -> int:
    """A whole number above 0, as an argument."""
    if not re.fullmatch("[0-9]{1,18}", text) or not 0 < int(text) <= MOST:
        raise argparse.ArgumentTypeError(f"{printable(text)!r} is not a whole number above 0 and up to {MOST:,}")
    return int(text)


def count(text: str) -> int:
    """A whole number from 0 on, as an argument."""
    return 0 if text == "0" else positive(text)


def number(text: str) -> float:
    """A finite number, as an argument."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{printable(text)!r} is not a number")
    return value


def seconds(text: str) -> float:
    """A length of time of up to a day, as an argument."""
    value = number(text)
    if not 0 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"{printable(text)!r} is not a number of seconds from 0 to 86,400")
    return value


def pixels(text: str) -> int | tuple[int, int]:
    """A number of pixels, or HEIGHTxWIDTH, as an argument."""
    sides = tuple(map(positive, text.split("x")))
    if len(sides) > 2:
        raise argparse.ArgumentTypeError(f"{printable(text)!r} is neither a number of pixels nor HEIGHTxWIDTH")
    return sides if len(sides) == 2 else sides[0]


def numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between them, as an argument."""
    return tuple(map(number, text.split(",")))


def add_network_options(command: argparse.ArgumentParser) -> None:
    """--num-classes, --image-size, --width and -v, for every command that builds a network."""
    text = "of the head, 0 for none (default: as many as the weights have)"
    command.add_argument("--num-classes", type=count, metavar="C", help=text)
    command.add_argument("--image-size", type=positive, metavar="S", help="side of the square input, in pixels")
    command.add_argument("--width", type=number, metavar="X", help="width multiplier, of networks that have one")
    command.add_argument("-v", "--verbose", action="store_true", help="say what is used and where it comes from")


def add_run_options(command: argparse.ArgumentParser) -> None:
    """--threads and --exact, for every command that runs a network."""
    command.add_argument("--threads", type=positive, metavar="N", help="default: every core this process may use")
    text = "one chain of multiply-adds for each output; slower where layers are wide"
    command.add_argument("--exact", action="store_true", help=text)


def add_image_options(command: argparse.ArgumentParser) -> None:
    """How images are prepared and what classes are called, where the weights do not say so."""
    group = command.add_argument_group("preprocessing", "By default, it is the one of the weights; -v shows it.")
    text = "pixels of the shorter side, or a rectangle"
    group.add_argument("--resize", type=pixels, metavar="N|HxW", help=text)
    group.add_argument(
        "--crop", type=pixels, metavar="N|HxW", help="pixels of the centre; --resize follows in proportion"
    )
    text = "center: the image covers the resized rectangle; border: it fits in; squash: it is stretched to it"
    group.add_argument("--crop-mode", metavar="MODE", help=text)
    group.add_argument("--interpolation", metavar="NAME", help="bilinear, bicubic, nearest, lanczos, box or hamming")
    group.add_argument("--mean", type=numbers, metavar="R,G,B", help="of values in 0 to 1")
    group.add_argument("--std", type=numbers, metavar="R,G,B")


def network_arguments(arguments: argparse.Namespace, name: str) -> dict[str, object]:
    """What the options say about the network called `name`, as arguments of `create_model`."""
    from ..pretrained.loading import find_network

    architecture, _ = find_network(name)
    width = "width_mult" if "width_mult" in architecture.arguments else "width"
    options = {"num_classes": arguments.num_classes, "image_size": arguments.image_size, width: arguments.width}
    return {key: value for key, value in options.items() if value is not None}


def model_arguments(arguments: argparse.Namespace, name: str) -> dict[str, object]:
    """What the options of a command say about a model of the network called `name`, as arguments of `create_model`."""
    options = network_arguments(arguments, name)
    settings = {field: getattr(arguments, field, None) for field in SETTINGS}
    settings = {field: value for field, value in settings.items() if value is not None}
    if settings:
        options["preprocessing"] = settings
    if getattr(arguments, "labels", None) is not None:
        options["labels"] = arguments.labels
    if getattr(arguments, "exact", False):
        options["exact"] = True
    return options


def model_of(arguments: argparse.Namespace, name: str, weights):
    """The model that the options of a command describe; what there is to say about its weights goes to stderr."""
    from ..model import create_model

    options = model_arguments(arguments, name)
    model = create_model(name, weights, threads=getattr(arguments, "threads", None), **options)
    if arguments.verbose:
        for line in description(model):
            print(f"nanoinfer: {line}", file=sys.stderr)
    tell(model.meaning.weights, model.meaning.notes)
    return model


def description(model) -> list[str]:
    """What -v says: the network, its weights, and where preprocessing and labels come from."""
    meaning, heads = model.meaning, {0: "no head", 1: "a single logit for two classes"}
    lines = [
        f"network: {model.name}, {heads.get(model.classes, f'{model.classes} classes')}, {model.threads} threads",
        f"weights: {meaning.weights}",
        f"preprocessing: {meaning.preprocessing} ({meaning.preprocessing.source})",
    ]
    return [*lines, f"labels: {meaning.labels_source}"] if meaning.labels else lines
