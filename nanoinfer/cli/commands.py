"""The command line: nanoinfer predict, models, convert, warmup.

The commands that look inside a network are in cli_reports.py and cli_profile.py.

Each command imports what it needs when it runs, so that `nanoinfer models` loads no kernels and no command that prints
JSON loads the table printer. A wrong use or a bad input is one line on standard error and exit code 2.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..errors import InputError, printable
from . import profile as cli_profile
from . import reports as cli_reports

MOST = 1_000_000_000  # of anything that is counted
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. --help and --version leave with SystemExit, as argparse does."""
    for name in ("stdout", "stderr"):  # a stream that the caller has closed is None
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))
    warnings.showwarning = lambda message, *_, **__: print(f"nanoinfer: warning: {message}", file=sys.stderr)
    if hasattr(sys.stdout, "reconfigure"):  # a file name or label that the console cannot show must not end the run
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        arguments = _parser().parse_args(argv)
        code = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader (head, less) has seen enough; nothing may be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except InputError as error:
        return _fail(str(error))
    except MemoryError as error:
        return _fail(f"{error or 'not enough memory'}; choose a smaller size")
    except OSError as error:
        name = f"{printable(error.filename)}: " if error.filename else ""
        return _fail(f"{name}{error.strerror or error}; check the path, its permissions and the disk")


def _fail(message: str) -> int:
    with suppress(OSError):  # where neither stream can be written, the exit code still tells
        sys.stdout.flush()
        print(f"nanoinfer: {message}", file=sys.stderr)
    return 2


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)  # "--top" must not change its meaning with the next option

    def error(self, message: str):
        raise InputError(f"{message}; see '{self.prog} --help'")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="nanoinfer", description="CPU inference for vision networks.")
    parser.add_argument("--version", action="version", version=f"nanoinfer {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    command = commands.add_parser("predict", help="classify images", description="Classify images.")
    command.add_argument("images", nargs="*", metavar="IMAGE", help="image files; without any, the ten sample digits")
    command.add_argument("-m", "--model", help=f"see 'nanoinfer models' (default: {DEFAULT_MODEL})")
    command.add_argument("--weights", metavar="W", help=".safetensors or .pth file, hub:OWNER/NAME or random[:SEED]")
    command.add_argument("--num-classes", type=positive, metavar="C", help="of fine-tuned weights")
    command.add_argument("--topk", type=positive, metavar="K", help="labels for each image (default: 5)")
    command.add_argument("--threads", type=positive, metavar="N", help="default: every core this process may use")
    command.add_argument("--format", choices=("table", "json", "csv"), default="table", help="default: table")
    command.set_defaults(run=predict)

    command = commands.add_parser("models", help="list the networks", description="List the networks.")
    command.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="such as 'mobilenet*'")
    command.set_defaults(run=models)

    cli_reports.add_commands(commands, positive)
    cli_profile.add_command(commands, positive)

    text = "Copy the tensors of a .pth file to a .safetensors file, without torch."
    command = commands.add_parser("convert", help=".pth to .safetensors", description=text)
    command.add_argument("source", metavar="IN.pth")
    command.add_argument("target", metavar="OUT.safetensors")
    command.set_defaults(run=convert)

    text = "Compile the kernels that networks need, so that the next start is a warm one."
    command = commands.add_parser("warmup", help="compile kernels ahead of time", description=text)
    command.add_argument("models", nargs="*", metavar="MODEL", help=f"default: {', '.join(WARMUP_MODELS)}")
    command.set_defaults(run=warmup)
    return parser


def positive(text: str) -> int:
    """A whole number above 0, as an argument."""
    if not re.fullmatch("[0-9]{1,18}", text) or not 0 < int(text) <= MOST:
        raise argparse.ArgumentTypeError(f"{printable(text)!r} is not a whole number above 0 and up to {MOST:,}")
    return int(text)


@dataclass(frozen=True)
class Prediction:
    """One classified image: (label, index, probability) in falling order, and the time of the network alone."""

    file: str
    top: list[tuple[str, int, float]]
    milliseconds: float


def predict(arguments: argparse.Namespace) -> int:
    """Classify each image and print the result; an unreadable image is reported, the others still count."""
    images, topk, name = arguments.images, arguments.topk or 5, arguments.model or DEFAULT_MODEL
    if not images and name != DEFAULT_MODEL:
        raise InputError(f"no image given: nanoinfer predict photo.jpg -m {name}")
    if not images:
        images, topk = _samples(), arguments.topk or 1
    from .. import console as report
    from ..model import create_model
    from ..progress import progress_bar

    warnings.filterwarnings("ignore", module=r"PIL\.")  # what is wrong with a file is said in one line, or is harmless
    model = create_model(name, arguments.weights, threads=arguments.threads, num_classes=arguments.num_classes)
    bad = []
    with progress_bar("classifying") as progress:
        report.PRINTERS[arguments.format](_predictions(model, images, topk, bad, progress))
    for message in bad:
        _fail(message)
    return 2 if bad else 0


def _samples() -> list[str]:
    """The sample digits, as paths from the current folder where they lie below it."""
    folder = Path(__file__).parents[1] / "data" / "digits"
    with suppress(OSError, ValueError):  # elsewhere, or in a folder that is gone
        folder = folder.relative_to(Path.cwd())
    return [str(path) for path in sorted(folder.glob("*.png"))]


def _predictions(model, images: list[str], topk: int, bad: list[str], progress=None) -> Iterator[Prediction]:
    warm = False
    for done, file in enumerate(images):
        if progress and len(images) > 10:
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


def models(arguments: argparse.Namespace) -> int:
    """Print the networks that match a pattern."""
    from .. import console as report
    from ..architectures import MODELS, list_models

    names = list_models(arguments.pattern)
    if not names:
        from difflib import get_close_matches

        nearest = get_close_matches(arguments.pattern.strip("*"), list(MODELS), 5, 0.4) or list(MODELS)
        raise InputError(f"no model matches {arguments.pattern!r}; nearest: {', '.join(nearest)}")
    report.models_table([MODELS[name] for name in names])
    return 0


def convert(arguments: argparse.Namespace) -> int:
    """Copy named arrays from one file to a new one."""
    from ..weights import load_weights, save_safetensors

    source, target = arguments.source, arguments.target
    if not target.endswith(".safetensors"):
        raise InputError(f"{printable(target)}: the name of the new file must end in .safetensors")
    if os.path.exists(source) and os.path.exists(target) and os.path.samefile(source, target):
        raise InputError(f"{printable(target)}: is the source itself; choose another name for the new file")
    arrays = load_weights(source)
    if not arrays:
        raise InputError(f"{printable(source)}: holds no tensors; nothing was written")
    save_safetensors(arrays, target)
    print(f"{len(arrays)} tensors, {os.path.getsize(target) / 1e6:.1f} MB: {printable(target)}")
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
