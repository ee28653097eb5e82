"""What changed since an earlier profile of the same network, step by step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import InputError
from .profile import Profile
from .report import Column, Report, Table


@dataclass(frozen=True)
class Change:
    """One step before and now, matched by its layer; None where a profile has no such step. Times in microseconds."""

    layer: str
    kernel_before: str | None
    kernel: str | None
    before: float | None
    now: float | None
    change: float | None  # of the time, relative to before


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
)


@dataclass(frozen=True)
class ProfileChanges(Report):
    """The steps of two profiles side by side; `wall` is microseconds of a run."""

    title: str
    rows: tuple[Change, ...]
    wall_before: float
    wall: float

    def tables(self) -> list[Table]:
        return [Table("", "rows", COLUMNS, self.rows)]

    def figures(self) -> dict[str, object]:
        return {"title": self.title, "wall_before": self.wall_before, "wall": self.wall}

    def heading(self) -> list[str]:
        return [f"{self.title}, against before"]

    def footing(self) -> list[str]:
        change = self.wall / self.wall_before - 1
        return [f"wall {self.wall_before:.1f} us before, {self.wall:.1f} us now: {change:+.1%}"]


def changes_since(before: dict, profile: Profile) -> ProfileChanges:
    """`before` is an earlier `to_dict()` of the same network. InputError if it is none, or of another network."""
    try:
        earlier = [(row["layer"], row["kernel"], float(row["microseconds"])) for row in before["rows"]]
        same = {name: before[name] for name in ("model", "input_shape", "threads")}
        wall = float(before["wall"])
        if not wall > 0:
            raise ValueError
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


def _by_layer(rows: Iterable[tuple[str, str, float]]) -> dict[tuple[str, int], tuple[str, float]]:
    """{(layer, number of the step within it): (kernel, microseconds)}."""
    table: dict[tuple[str, int], tuple[str, float]] = {}
    for layer, kernel, microseconds in rows:
        number = sum(known == layer for known, _ in table)
        table[layer, number] = kernel, microseconds
    return table
