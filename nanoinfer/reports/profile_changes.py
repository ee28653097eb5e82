"""Other views of a profile: a Chrome trace, the roofline as a picture, and the comparison with an earlier profile."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ..errors import InputError
from .plots import new_figure, save_figure
from .profile import Profile
from .report import Report

LEVELS = (("L2", "l2_read"), ("L3", "l3_read"), ("memory", "memory_read"))


def chrome_trace(profile: Profile) -> dict:
    """A typical run as Chrome's trace format, which Perfetto opens: a lane per thread, slices of work and of waiting.

    https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
    """
    events = [{"name": "process_name", "ph": "M", "pid": 1, "args": {"name": f"nanoinfer {profile.heading()[0]}"}}]
    for thread, steps in enumerate(profile.timeline.tolist()):
        lane = {"pid": 1, "tid": thread}
        name = f"thread {thread}{' (the caller)' if thread == 0 else ''}"
        events.append({"name": "thread_name", "ph": "M", **lane, "args": {"name": name}})
        for row, (start, done, met) in zip(profile.rows, steps, strict=True):
            details = {"step": row.step, "layer": row.layer, "shapes": row.shapes, "GFLOP/s": row.gflops,
                       "GB/s": row.gbs, "percent of limit": row.percent, "limit": row.bound}  # fmt: skip
            slices = (("work", row.kernel, start, done, details), ("wait", "wait", done, met, {"step": row.step}))
            for category, title, first, last, arguments in slices:
                events.append({"name": title, "cat": category, "ph": "X", "ts": first, "dur": last - first, **lane,
                               "args": arguments})  # fmt: skip
    return {"traceEvents": events, "displayTimeUnit": "ns"}


def roofs(profile: Profile) -> tuple[float, list[tuple[str, float]]]:
    """(peak GFLOP/s, [(level, GB/s)]) for the profile's number of threads."""
    at = profile.threads - 1
    return profile.limits.gflops[at], [(name, getattr(profile.limits, rates)[at]) for name, rates in LEVELS]


def plot_roofline(profile: Profile, path: str) -> None:
    """Each step as a point: GFLOP/s over FLOP per byte, under the machine's limits. InputError without matplotlib."""
    figure = new_figure(9, 6)
    from matplotlib import colormaps

    axes = figure.subplots()
    peak, bandwidths = roofs(profile)
    points = {}
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


@dataclass(frozen=True)
class Change:
    """One step before and now, matched by its layer; None where a profile has no such step. Times in microseconds."""

    layer: str
    kernel_before: str | None
    kernel: str | None
    before: float | None
    now: float | None
    change: float | None  # of the time, relative to before


@dataclass(frozen=True)
class ProfileChanges(Report):
    """What changed since an earlier profile of the same network, row by row."""

    title: str
    rows: tuple[Change, ...]
    wall_before: float
    wall: float

    columns = ("layer", "kernel", "kernel before", ">before us", ">now us", ">change")

    def cells(self) -> list[tuple[str, ...]]:
        return [
            (
                row.layer, row.kernel or "-", "same" if row.kernel_before == row.kernel else row.kernel_before or "-",
                "-" if row.before is None else f"{row.before:.1f}", "-" if row.now is None else f"{row.now:.1f}",
                "-" if row.change is None else f"{row.change:+.1%}",
            )
            for row in self.rows
        ]  # fmt: skip

    def tables(self) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
        """(title, columns, cells) of the one table."""
        return [("", self.columns, self.cells())]

    def records(self) -> list[dict]:
        return [asdict(row) for row in self.rows]

    def heading(self) -> list[str]:
        return [f"{self.title}, against before"]

    def footing(self) -> list[str]:
        return [
            f"wall {self.wall_before:.1f} us before, {self.wall:.1f} us now: {self.wall / self.wall_before - 1:+.1%}"
        ]

    def to_dict(self) -> dict:
        return {"title": self.title, "wall_before": self.wall_before, "wall": self.wall, "rows": self.records()}


def compare(before: dict, profile: Profile) -> ProfileChanges:
    """`before` is an earlier `to_dict()` of the same network. InputError if it is none, or of another network."""
    try:
        earlier = [(row["layer"], row["kernel"], float(row["microseconds"])) for row in before["rows"]]
        same = {name: before[name] for name in ("model", "input_shape", "threads")}
        wall = float(before["wall"])
    except (KeyError, TypeError, ValueError):
        raise InputError(
            "it is no profile; write one with: nanoinfer profile MODEL --format json > before.json"
        ) from None
    now = {"model": profile.model, "input_shape": list(profile.input_shape), "threads": profile.threads}
    for name, value in now.items():
        if same[name] != value:
            raise InputError(f"it has {name} {same[name]}, not {value}; compare profiles of the same run")
    old, new = _by_layer(earlier), _by_layer((row.layer, row.kernel, row.microseconds) for row in profile.rows)
    rows = []
    for key in dict.fromkeys([*new, *old]):
        (kernel_before, start), (kernel, end) = old.get(key, (None, None)), new.get(key, (None, None))
        change = None if start is None or end is None or not start else end / start - 1
        rows.append(Change(key[0], kernel_before, kernel, start, end, change))
    return ProfileChanges(profile.heading()[0], tuple(rows), wall, profile.wall)


def _by_layer(rows) -> dict[tuple[str, int], tuple[str, float]]:
    """{(layer, number of the step within it): (kernel, microseconds)}."""
    table: dict[tuple[str, int], tuple[str, float]] = {}
    for layer, kernel, micros in rows:
        number = sum(known == layer for known, _ in table)
        table[layer, number] = kernel, micros
    return table
