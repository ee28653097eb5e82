"""Pictures by matplotlib (extra `plot`): the roofline of a profile, the shares of parameters as pies."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import InputError, printable

if TYPE_CHECKING:
    from .inspect import ParameterReport
    from .profile import Profile

PIE_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#999999")


def plot_shares(report: ParameterReport, path) -> None:
    """Shares of layers and of parameters by form, as two pies. InputError as for `save_figure`."""
    figure = new_figure(9, 4)
    figure.suptitle(f"{report.name}: {len(report.layers)} layers, {report.parameters:,} parameters")
    left, right = figure.subplots(1, 2)
    of_layers = [share.of_layers for share in report.shares]
    of_parameters = [share.of_parameters for share in report.shares]
    for axes, title, values in ((left, "share of layers", of_layers), (right, "share of parameters", of_parameters)):
        # Percentages stand in the legend: a wedge of 0.02 % has no room for its own.
        wedges, *_ = axes.pie(values, colors=PIE_COLOURS, startangle=90, counterclock=False)
        labels = [f"{share.form}  {value:.2f}%" for share, value in zip(report.shares, values, strict=True)]
        axes.legend(wedges, labels, loc="upper center", bbox_to_anchor=(0.5, 0), frameon=False)
        axes.set_title(title)
    save_figure(figure, path)


def plot_roofline(profile: Profile, path) -> None:
    """Each step as a point: GFLOP/s over FLOP per byte, under the machine's limits. InputError as for `save_figure`."""
    figure = new_figure(9, 6)
    from matplotlib import colormaps

    axes = figure.subplots()
    peak, bandwidths = profile.roofs
    points: dict[str, list[tuple[float, float, float]]] = {}
    for row in profile.rows:
        points.setdefault(row.kind, []).append((row.flops / row.bytes, row.gflops, 20 + 2000 * row.share))
    intensities = [x for rows in points.values() for x, _, _ in rows]
    low, high = min(intensities) / 2, max(max(intensities) * 2, peak / bandwidths[-1][1] * 2)
    for name, rate in bandwidths:
        axes.plot([low, peak / rate], [low * rate, peak], color="grey", linewidth=1)
        above = name == "L2"  # L2 and L3 lie close: labels on either side
        place = dict(textcoords="offset points", xytext=(4, 12 if above else -12), fontsize=8, color="dimgrey")
        axes.annotate(f"{name} {rate:.0f} GB/s", (low, low * rate), **place)
    axes.plot([peak / max(rate for _, rate in bandwidths), high], [peak, peak], color="black")
    axes.annotate(f"{peak:.0f} GFLOP/s", (high, peak), ha="right", va="bottom", fontsize=8)
    colours = colormaps["tab10"]
    for index, (kind, rows) in enumerate(points.items()):
        x, y, sizes = zip(*rows, strict=True)
        axes.scatter(x, y, sizes, color=colours(index % 10), alpha=0.6, label=kind, linewidths=0)
    axes.set(xscale="log", yscale="log", xlabel="FLOP per byte", ylabel="GFLOP/s", title=profile.heading()[0])
    for handle in axes.legend(fontsize=8, loc="lower right").legend_handles:
        handle.set_sizes([40])
    save_figure(figure, path, dpi=130)


def new_figure(width: float, height: float):
    """An empty figure, sizes in inches. InputError without matplotlib."""
    try:
        import matplotlib.figure
    except ImportError:
        raise InputError("a plot needs matplotlib: pip install matplotlib") from None
    return matplotlib.figure.Figure(figsize=(width, height), layout="constrained")


def save_figure(figure, path, **options) -> None:
    """Write a figure; the suffix of `path` is the format. InputError if it has none, or one unknown to matplotlib."""
    try:
        if not os.path.splitext(path)[1]:
            raise ValueError("has no suffix")
        figure.savefig(path, **options)
    except ValueError as error:
        raise InputError(f"{printable(path)}: {error}; name the plot .png, .svg or .pdf") from None
