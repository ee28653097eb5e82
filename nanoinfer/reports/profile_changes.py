"""What changed since an earlier profile of the same network, step by step.

Two profiles of the same code differ. A step is said to be slower or faster only where the medians are further apart
than runs spread: each lies outside of what nine runs out of ten of the other profile took.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import InputError
from .profile import Profile
from .report import Column, Report, Table


class Times(NamedTuple):
    """Microseconds of a step or a run: the median, and what nine runs out of ten lie between."""

    median: float
    p5: float
    p95: float

    def verdict(self, now: Times) -> str:
        """ "slower", "faster", or "" for what may be chance."""
        if self.p95 < now.median and self.median < now.p5:
            return "slower"
        return "faster" if self.p5 > now.median and self.median > now.p95 else ""


@dataclass(frozen=True)
class Change:
    """One step before and now, matched by its layer; None where a profile has no such step. Times in microseconds."""

    layer: str
    kernel_before: str | None
    kernel: str | None
    before: float | None
    now: float | None
    change: float | None  # of the time, relative to before
    verdict: str  # "slower" or "faster" if the change exceeds the spread


def _kernel_before(row: Change) -> str:
    return "same" if row.kernel_before == row.kernel else row.kernel_before or "-"


COLUMNS = (
    Column("layer", "layer"),
    Column(None, "kernel_before"),
    Column("kernel", "kernel"),
    Column("kernel before", None, _kernel_before),
    Column("before us", "before", "{:.1f}", right=True),
    Column("now us", "now", "{:.1f}", right=True),
    Column("change", "change", "{:+.1%}", right=True),
    Column("beyond spread", "verdict"),
)


@dataclass(frozen=True)
class ProfileChanges(Report):
    """The steps of two profiles side by side; `wall` is microseconds of a run.

    `disturbed` says why the machine seems to have been busy while one of them was taken; None if it does not.
    """

    title: str
    rows: tuple[Change, ...]
    wall_before: float
    wall: float
    verdict: str  # on the wall, as in Change
    disturbed: str | None

    def tables(self) -> list[Table]:
        return [Table("", "rows", COLUMNS, self.rows)]

    def figures(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "rows"}

    def heading(self) -> list[str]:
        return [f"{self.title}, against before"]

    def footing(self) -> list[str]:
        change, counts = self.wall / self.wall_before - 1, [row.verdict for row in self.rows]
        warning = f"THE MACHINE WAS DISTURBED, and changes mean little: {self.disturbed}"
        return [
            *([warning] if self.disturbed else []),
            f"wall {self.wall_before:.1f} us before, {self.wall:.1f} us now: {change:+.1%}, "
            + (f"{self.verdict} beyond the spread" if self.verdict else "within the spread"),
            f"steps beyond the spread: {counts.count('slower')} slower, {counts.count('faster')} faster",
        ]


def changes_since(before: dict, profile: Profile) -> ProfileChanges:
    """`before` is an earlier `to_dict()` of the same network. InputError if it is none, or of another network."""
    try:
        earlier = [(row["layer"], row["kernel"], _times(row, "microseconds", "")) for row in before["rows"]]
        same = {name: before[name] for name in ("model", "input_shape", "threads")}
        wall, disturbed = _times(before, "wall", "wall_"), before["disturbed"]
        if not wall.median > 0 or not isinstance(disturbed, str | None):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise InputError(
            "it is no profile; write one with: nanoinfer profile MODEL --format json > before.json"
        ) from None
    now = {"model": profile.model, "input_shape": list(profile.input_shape), "threads": profile.threads}
    for name, value in now.items():
        if same[name] != value:
            raise InputError(f"it has {name} {same[name]}, not {value}; compare profiles of the same run")
    times = ((row.layer, row.kernel, Times(row.microseconds, row.p5, row.p95)) for row in profile.rows)
    old, new = _by_layer(earlier), _by_layer(times)
    rows = []
    for key in dict.fromkeys([*new, *old]):
        (kernel_before, start), (kernel, end) = old.get(key, (None, None)), new.get(key, (None, None))
        both = start is not None and end is not None
        rows.append(
            Change(
                layer=key[0],
                kernel_before=kernel_before,
                kernel=kernel,
                before=start and start.median,
                now=end and end.median,
                change=end.median / start.median - 1 if both and start.median else None,
                verdict=start.verdict(end) if both else "",
            )
        )
    now_wall = Times(profile.wall, profile.wall_p5, profile.wall_p95)
    busy = [f"{when}, {what}" for when, what in (("before", disturbed), ("now", profile.disturbed)) if what]
    return ProfileChanges(
        title=profile.heading()[0],
        rows=tuple(rows),
        wall_before=wall.median,
        wall=profile.wall,
        verdict=wall.verdict(now_wall),
        disturbed="; ".join(busy) or None,
    )


def _times(figures: dict, median: str, prefix: str) -> Times:
    return Times(float(figures[median]), float(figures[f"{prefix}p5"]), float(figures[f"{prefix}p95"]))


def _by_layer(rows: Iterable[tuple[str, str, Times]]) -> dict[tuple[str, int], tuple[str, Times]]:
    """{(layer, number of the step within it): (kernel, times)}."""
    table: dict[tuple[str, int], tuple[str, Times]] = {}
    for layer, kernel, times in rows:
        number = sum(known == layer for known, _ in table)
        table[layer, number] = kernel, times
    return table
