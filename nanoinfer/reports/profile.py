"""What a profile is: a row for every step, the tables that are made of them, and the run as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

import numpy as np

from ..machine.roofline import Limits
from .report import Report, markdown_table, text_table


@dataclass(frozen=True)
class Row:
    """One step. Times are microseconds; `percent` is of the limit that binds, named in `bound`."""

    step: int
    kernel: str
    kind: str  # kernel and window: what rows are grouped by
    layer: str
    shapes: str
    flops: int
    bytes: int
    microseconds: float  # median, the wait included
    p95: float
    share: float  # of the sum over all steps
    gflops: float
    gbs: float
    percent: float
    bound: str  # compute, L2, L3 or memory
    imbalance: float  # work of the slowest thread over that of the mean thread
    wait: float  # of the mean thread for the others

    @property
    def limit(self) -> float:
        """The fewest microseconds that this machine would allow."""
        return self.percent / 100 * self.microseconds


@dataclass(frozen=True)
class Kind:
    """All steps of one kernel and window together; fields as in Row."""

    kind: str
    steps: int
    microseconds: float
    share: float
    gflops: float
    gbs: float
    percent: float
    wait: float


@dataclass(frozen=True)
class Profile(Report):
    """A measured program. `print` it for three tables: in run order, the slowest ten, by kind of kernel."""

    model: str
    input_shape: tuple[int, ...]
    threads: int
    repeat: int
    rows: tuple[Row, ...]
    wall: float  # microseconds of the native call, median of the runs with time stamps
    total: float  # microseconds of all steps, median of the same runs
    agreement: float  # total / wall within a run, median
    overhead: float  # of the time stamps: median over pairs of runs with and without, minus 1
    gflops: float
    percent_of_peak: float
    limits: Limits
    timeline: np.ndarray = field(repr=False, compare=False)  # (threads, steps, 3) microseconds of a typical run

    columns = (
        ">step", "kernel", "layer", "shapes", ">us", ">p95", ">share", ">GFLOP/s", ">GB/s", ">of limit", "limit",
        ">imbalance", ">wait us",
    )  # fmt: skip
    kind_columns = ("kind", ">steps", ">us", ">share", ">GFLOP/s", ">GB/s", ">of limit", ">wait us")

    @property
    def slowest(self) -> list[Row]:
        """The ten rows that take longest."""
        return sorted(self.rows, key=lambda row: -row.microseconds)[:10]

    @property
    def kinds(self) -> list[Kind]:
        """Rows of one kind together, the longest first."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(row.kind, []).append(row)
        table = []
        for name, rows in groups.items():
            micros, limit = sum(row.microseconds for row in rows), sum(row.limit for row in rows)
            flops, moved = sum(row.flops for row in rows), sum(row.bytes for row in rows)
            share, wait = sum(row.share for row in rows), sum(row.wait for row in rows)
            rates = (flops / micros / 1e3, moved / micros / 1e3, 100 * limit / micros)
            table.append(Kind(name, len(rows), micros, share, *rates, wait))
        return sorted(table, key=lambda group: -group.microseconds)

    def cells(self, rows: Iterable[Row] | None = None) -> list[tuple[str, ...]]:
        return [
            (
                str(row.step), row.kernel, row.layer, row.shapes, f"{row.microseconds:.1f}", f"{row.p95:.1f}",
                f"{row.share:.1%}", f"{row.gflops:.1f}", f"{row.gbs:.1f}", f"{row.percent:.0f}%", row.bound,
                f"{row.imbalance:.2f}", f"{row.wait:.1f}",
            )
            for row in (self.rows if rows is None else rows)
        ]  # fmt: skip

    def kind_cells(self) -> list[tuple[str, ...]]:
        return [
            (
                row.kind, str(row.steps), f"{row.microseconds:.1f}", f"{row.share:.1%}", f"{row.gflops:.1f}",
                f"{row.gbs:.1f}", f"{row.percent:.0f}%", f"{row.wait:.1f}",
            )
            for row in self.kinds
        ]  # fmt: skip

    def tables(self) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
        """(title, columns, cells) of each of the three."""
        return [
            ("In run order", self.columns, self.cells()),
            ("The slowest ten", self.columns, self.cells(self.slowest)),
            ("By kind of kernel", self.kind_columns, self.kind_cells()),
        ]

    def records(self) -> list[dict]:
        return [asdict(row) for row in self.rows]

    def heading(self) -> list[str]:
        shape = "x".join(map(str, self.input_shape))
        return [f"{self.model}, {shape}, {_count(self.threads, 'thread')}, {_count(self.repeat, 'run')}"]

    def footing(self) -> list[str]:
        at, limits = self.threads - 1, self.limits
        return [
            f"sum of steps {self.total:.1f} us, wall {self.wall:.1f} us (medians); "
            f"within one run steps are {self.agreement:.1%}",
            f"{self.gflops:.1f} GFLOP/s, {self.percent_of_peak:.0f}% of the measured peak",
            f"limits of {_count(self.threads, 'thread')}: {limits.gflops[at]:.0f} GFLOP/s; GB/s read from "
            f"L2 {limits.l2_read[at]:.0f}, L3 {limits.l3_read[at]:.0f}, memory {limits.memory_read[at]:.0f}",
            f"time stamps cost {self.overhead:+.1%} (runs with and without them, by turns)",
        ]

    def to_dict(self) -> dict:
        """All but the timeline, which the trace holds."""
        fields = {name: value for name, value in vars(self).items() if name != "timeline"}
        kinds = [asdict(row) for row in self.kinds]
        return {**fields, "input_shape": list(self.input_shape), "rows": self.records(), "kinds": kinds,
                "limits": asdict(self.limits)}  # fmt: skip

    def to_markdown(self) -> str:
        parts = [f"### {title}\n\n{markdown_table(columns, cells)}" for title, columns, cells in self.tables()]
        return "\n\n".join([*self.heading(), *parts, "  \n".join(self.footing())])

    def __str__(self) -> str:
        parts = [f"{title}\n\n{text_table(columns, cells)}" for title, columns, cells in self.tables()]
        return "\n\n".join([*self.heading(), *parts, "\n".join(self.footing())])


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
