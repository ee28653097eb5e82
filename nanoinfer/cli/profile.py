"""nanoinfer profile: where the time of a network goes, step by step."""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path

from ..errors import InputError, printable
from ..reports.report import FORMATS


def add_command(commands, positive) -> None:
    """Add the command to argparse's `commands`; `positive` is the type of a whole number above 0."""
    text = "Measure every step of a network: time, rate, and its share of what the machine allows."
    command = commands.add_parser("profile", help="where the time goes, step by step", description=text)
    command.add_argument("model", metavar="MODEL", help="see 'nanoinfer models'")
    command.add_argument("--weights", metavar="W", default="random", help="file, hub:OWNER/NAME (default: random)")
    command.add_argument("--batch-size", type=positive, metavar="N", help="default: 1")
    command.add_argument("--input-size", type=positive, nargs="+", metavar="N", help="such as 1 3 224 224, or 224 224")
    command.add_argument("--threads", type=positive, metavar="N", help="default: every core this process may use")
    command.add_argument("--repeat", type=positive, default=50, metavar="N", help="runs that count (default: 50)")
    command.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    command.add_argument("--trace", metavar="T.json", help="write a typical run as a Chrome trace, for Perfetto")
    command.add_argument("--plot", metavar="P.png", help="write the roofline as a picture")
    command.add_argument("--html", metavar="P.html", help="write tables, roofline and timeline as one web page")
    command.add_argument("--compare", metavar="BEFORE.json", help="show what changed since --format json wrote this")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Profile one network; print the report and write the files that are asked for."""
    import numpy as np

    from ..model import create_model

    for path in (arguments.trace, arguments.plot, arguments.html):
        if path is not None and not os.path.isdir(os.path.dirname(path) or "."):
            raise InputError(f"{printable(path)}: no such folder; make it first")
    before = None if arguments.compare is None else _read(arguments.compare)
    model = create_model(arguments.model, arguments.weights, threads=arguments.threads)
    shape = _shape(arguments, model.architecture.preprocessing.crop)
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    profile = model.profile(x, arguments.repeat)

    from ..reports import profile_views

    changes = None
    if before is not None:
        try:
            changes = profile_views.compare(before, profile)
        except InputError as error:
            raise InputError(f"{printable(arguments.compare)}: {error}") from None
    reports = [report for report in (profile, changes) if report is not None]
    if arguments.format in ("json", "csv"):
        reports = reports[-1:]  # machines read one document: the comparison, if there is one
    for report in reports:
        _print(report, arguments.format)
    if arguments.trace is not None:
        _write(arguments.trace, json.dumps(profile_views.chrome_trace(profile)))
    if arguments.plot is not None:
        profile_views.plot_roofline(profile, arguments.plot)
    if arguments.html is not None:
        from ..reports.profile_html import page

        _write(arguments.html, page(profile))
    return 0


def _print(value, kind: str) -> None:
    if kind != "table":
        print(getattr(value, f"to_{kind}")())
        return
    from .. import console as report

    print(*value.heading(), sep="\n")
    for title, columns, cells in value.tables():
        print(f"\n{title}\n" if title else "")
        report.print_table(columns, cells)
    print("", *value.footing(), sep="\n")


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{printable(path)}: cannot be written ({error.strerror}); choose another place") from None


def _read(path: str) -> dict:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise InputError(
            f"{printable(path)}: not JSON; write a profile with: nanoinfer profile MODEL --format json > before.json"
        ) from None


def _shape(arguments: argparse.Namespace, crop: tuple[int, int]) -> tuple[int, ...]:
    """(N, C, H, W) from --input-size and --batch-size."""
    size = tuple(arguments.input_size or crop)
    if len(size) == 4 and arguments.batch_size not in (None, size[0]):
        raise InputError(f"--batch-size {arguments.batch_size} is not that of --input-size; give one of them")
    if len(size) not in (2, 4):
        raise InputError("--input-size takes the four numbers N C H W, such as 1 3 224 224, or two, H W")
    shape = size if len(size) == 4 else (arguments.batch_size or 1, 3, *size)
    if math.prod(shape) > 1 << 40:
        raise InputError(f"an input of {'x'.join(map(str, shape))} is more than memory holds; choose a smaller one")
    return shape
