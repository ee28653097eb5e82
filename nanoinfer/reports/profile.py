"""A profile: a row for every step of a program, the tables that are made of the rows, and the run as a whole."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .report import Column, Report, Table

if TYPE_CHECKING:
    from ..machine.roofline import Roofline


DISTURBED = 0.1  # of the runs that are slow, or between sums that should be equal: a sign of a busy machine


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
    p5: float
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


MICROSECONDS = Column("us", "microseconds", "{:.1f}", right=True)
RATES = (
    Column("share", "share", "{:.1%}", right=True),
    Column("GFLOP/s", "gflops", "{:.1f}", right=True),
    Column("GB/s", "gbs", "{:.1f}", right=True),
    Column("of limit", "percent", "{:.0f}%", right=True),
)
WAIT = Column("wait us", "wait", "{:.1f}", right=True)

COLUMNS = (
    Column("step", "step", right=True),
    Column("kernel", "kernel"),
    Column(None, "kind"),
    Column("layer", "layer"),
    Column("shapes", "shapes"),
    Column(None, "flops"),
    Column(None, "bytes"),
    MICROSECONDS,
    Column("p5", "p5", "{:.1f}", right=True),
    Column("p95", "p95", "{:.1f}", right=True),
    *RATES,
    Column("limit", "bound"),
    Column("imbalance", "imbalance", "{:.2f}", right=True),
    WAIT,
)
KIND_COLUMNS = (Column("kind", "kind"), Column("steps", "steps", right=True), MICROSECONDS, *RATES, WAIT)


@dataclass(frozen=True)
class Profile(Report):
    """A measured program. `print` it for three tables: in run order, the slowest ten, by kind of kernel."""

    model: str
    input_shape: tuple[int, ...]
    threads: int
    repeat: int
    rows: tuple[Row, ...]
    wall: float  # microseconds of the native call, median of the runs with time stamps
    wall_p5: float
    wall_p95: float
    slow_runs: int  # of these, those that took half as long again as the quickest quarter does
    cores_lost: int  # how often in all runs the system gave a core of this process to another thread
    total: float  # microseconds of all steps, median of the same runs
    agreement: float  # total / wall within a run, median
    overhead: float  # of the time stamps: median over pairs of runs with and without, minus 1
    gflops: float
    percent_of_peak: float
    limits: Roofline
    timeline: np.ndarray = field(repr=False, compare=False)  # (threads, steps, 3) microseconds of a typical run

    @property
    def slowest(self) -> list[Row]:
        """The ten rows that take longest."""
        return sorted(self.rows, key=lambda row: -row.microseconds)[:10]

    @property
    def disturbed(self) -> str | None:
        """What tells that the machine was busy with something else; None if nothing does."""
        rows, signs = sum(row.microseconds for row in self.rows), []
        if self.slow_runs > DISTURBED * self.repeat:
            signs.append(f"{self.slow_runs} of {self.repeat} runs took half as long again as the quickest quarter")
        if self.cores_lost > DISTURBED * self.repeat:
            signs.append(f"the process lost a core {_count(self.cores_lost, 'time')}")
        if abs(rows / self.total - 1) > DISTURBED:
            signs.append(f"the medians of steps add up to {rows:.1f} us, and runs to {self.total:.1f} us")
        return "; ".join(signs) or None

    @property
    def kinds(self) -> list[Kind]:
        """Rows of one kind together, the longest first."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(row.kind, []).append(row)
        kinds = [_together(kind, rows) for kind, rows in groups.items()]
        return sorted(kinds, key=lambda kind: -kind.microseconds)

    @property
    def roofs(self) -> tuple[float, list[tuple[str, float]]]:
        """(peak GFLOP/s, [(level of memory, GB/s)]) for the profile's number of threads, the fastest level first."""
        at, limits = self.threads - 1, self.limits
        reads = (("L2", limits.l2_read), ("L3", limits.l3_read), ("memory", limits.memory_read))
        return limits.gflops[at], [(level, rates[at]) for level, rates in reads]

    def tables(self) -> list[Table]:
        return [
            Table("In run order", "rows", COLUMNS, self.rows),
            Table("The slowest ten", None, COLUMNS, self.slowest),
            Table("By kind of kernel", "kinds", KIND_COLUMNS, self.kinds),
        ]

    def figures(self) -> dict[str, object]:
        """All but the rows, and the timeline, which the trace holds."""
        figures = {name: value for name, value in vars(self).items() if name not in ("rows", "timeline")}
        return figures | {
            "disturbed": self.disturbed,
            "input_shape": list(self.input_shape),
            "limits": asdict(self.limits),
        }

    def heading(self) -> list[str]:
        shape = "x".join(map(str, self.input_shape))
        return [f"{self.model}, {shape}, {_count(self.threads, 'thread')}, {_count(self.repeat, 'run')}"]

    def footing(self) -> list[str]:
        peak, bandwidths = self.roofs
        warning = f"THE MACHINE WAS DISTURBED, and figures mean little: {self.disturbed}"
        return [
            *([warning] if self.disturbed else []),
            f"sum of steps {self.total:.1f} us, wall {self.wall:.1f} us (medians); "
            f"within one run steps are {self.agreement:.1%}",
            f"wall of nine runs out of ten: {self.wall_p5:.1f} to {self.wall_p95:.1f} us, as p5 and p95 for each step",
            f"{self.gflops:.1f} GFLOP/s, {self.percent_of_peak:.0f}% of the measured peak",
            f"limits of {_count(self.threads, 'thread')}: {peak:.0f} GFLOP/s; GB/s read from "
            + ", ".join(f"{level} {rate:.0f}" for level, rate in bandwidths),
            f"time stamps cost {self.overhead:+.1%} (interleaved runs with and without them)",
        ]


def _together(kind: str, rows: list[Row]) -> Kind:
    microseconds, limit = sum(row.microseconds for row in rows), sum(row.limit for row in rows)
    return Kind(
        kind=kind,
        steps=len(rows),
        microseconds=microseconds,
        share=sum(row.share for row in rows),
        gflops=sum(row.flops for row in rows) / microseconds / 1e3,
        gbs=sum(row.bytes for row in rows) / microseconds / 1e3,
        percent=100 * limit / microseconds,
        wait=sum(row.wait for row in rows),
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
