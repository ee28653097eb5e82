"""Profiles: fields, sums and tables; none of the times are judged."""

from dataclasses import replace

import numpy as np
import pytest

from nanoinfer import InputError, create_model
from nanoinfer.graph import passes
from nanoinfer.machine.roofline import Roofline
from nanoinfer.reports import measure
from nanoinfer.reports.measure import step_limit

ROOFLINE = Roofline(2, 1 << 20, 32 << 20, [100.0, 200.0], *[[float(rate)] * 2 for rate in (200, 100, 20)])


def test_profile_has_a_row_per_step(model, profile):
    program = model.program((1, 3, 96, 96))
    assert [row.layer for row in profile.rows] == [step.node.output for step in program.steps]
    assert [row.flops for row in profile.rows] == [step.flops for step in program.steps]
    assert profile.rows[0].shapes == "1x3x96x96 -> 1x11x48x48" and profile.rows[0].kind in ("matmul 3x3", "stem 3x3")
    assert profile.limits.gflops[1] > 0 and profile.timeline.shape == (2, len(program.steps), 3)


def test_step_bytes_are_values_and_weights(model):
    steps = model.program((1, 3, 96, 96)).steps
    assert steps[0].bytes == 4 * (3 * 96 * 96 + 11 * 48 * 48 + 11 * 3 * 9 + 11)
    graph, tensors = passes.optimise(model.graph, model.tensors)
    weights = sum(tensors[name].size for node in graph.nodes for name in node.tensors.values())
    assert sum(step.weight_bytes for step in steps) == 4 * weights


def test_times_are_consistent(profile):
    for row in profile.rows:
        assert 0 < row.microseconds <= row.p95 * 1.000001 and row.p5 <= row.microseconds * 1.000001
        assert row.imbalance >= 1 and row.wait >= 0
        assert row.gflops == pytest.approx(row.flops / row.microseconds / 1e3)
        assert row.bound in ("compute", "L2", "L3", "memory") and row.percent > 0
    assert sum(row.share for row in profile.rows) == pytest.approx(1)
    # The steps of a run lie within the time that was measured around it.
    assert 0.3 < profile.agreement <= 1.001
    assert profile.wall_p5 <= profile.wall <= profile.wall_p95
    line = profile.timeline.reshape(2, -1)
    assert (np.diff(line) >= 0).all() and line.min() == 0


def test_steps_add_up_to_the_run_whoever_computed_which_part():
    """Two steps in one group of two parts, of which one thread computes the first and then the second."""
    stamps = np.array([[[[0, 1, 1], [1, 2, 4]], [[2, 3, 3], [3, 4, 4]]]], float)
    runs = measure._Runs(stamps, walls=np.ones(1), plain=np.ones(1), cores_lost=0)
    np.testing.assert_array_equal(runs.steps, [[2, 2]])


def test_disturbed_runs_are_told(profile):
    rows = sum(row.microseconds for row in profile.rows)
    quiet = replace(profile, repeat=50, slow_runs=5, cores_lost=5, total=rows)
    assert quiet.disturbed is None and "DISTURBED" not in str(quiet) and quiet.to_dict()["disturbed"] is None
    for change, part in (
        ({"slow_runs": 6}, "6 of 50 runs took half as long again"), ({"cores_lost": 7}, "lost a core 7 times"),
        ({"total": 5 * rows}, f"add up to {rows:.1f} us, and runs to {5 * rows:.1f} us"),
    ):  # fmt: skip
        busy = replace(quiet, **change)
        assert (
            part in busy.disturbed
            and f"THE MACHINE WAS DISTURBED, and figures mean little: {busy.disturbed}" in str(busy)
        )


def test_kinds_and_slowest_cover_the_rows(profile):
    assert sum(group.steps for group in profile.kinds) == len(profile.rows)
    assert sum(group.microseconds for group in profile.kinds) == pytest.approx(
        sum(row.microseconds for row in profile.rows)
    )
    times = [row.microseconds for row in profile.slowest]
    assert len(times) == 10 and times == sorted(times, reverse=True)
    assert times[0] == max(row.microseconds for row in profile.rows)


def test_profiling_changes_no_result(model):
    x = np.random.default_rng(0).standard_normal((1, 3, 96, 96), np.float32)
    before = model(x)
    model.profile(x, repeat=1)
    np.testing.assert_array_equal(model(x), before)


def test_single_thread_never_waits():
    profile = create_model("digits", "random", threads=1).profile(np.ones((1, 3, 64, 64), np.float32), repeat=2)
    assert all(row.imbalance == 1 and row.wait < row.microseconds for row in profile.rows)


@pytest.mark.parametrize("repeat", [0, -1, 1.5])
def test_repeat_is_a_positive_whole_number(model, repeat):
    with pytest.raises(InputError, match="repeat"):
        model.profile(np.ones((1, 3, 96, 96), np.float32), repeat=repeat)


def test_step_limit_names_what_binds():
    class Step:
        flops, bytes, weight_bytes = 2_000_000, 1000, 0

    assert step_limit(Step, ROOFLINE, 2, 1 << 30) == (pytest.approx(10), "compute")
    Step.bytes = 4_000_000  # more than two L2 caches hold
    assert step_limit(Step, ROOFLINE, 2, 1 << 30) == (pytest.approx(40), "L3")
    Step.weight_bytes = 3_000_000  # last read a whole run ago
    assert step_limit(Step, ROOFLINE, 2, 1 << 30) == (pytest.approx(10 + 150), "memory")
    for size in (1, 2 << 20, 3 << 20, 32 << 20, 33 << 20):
        rate = {"L2": ROOFLINE.l2_read, "L3": ROOFLINE.l3_read, "memory": ROOFLINE.memory_read}[ROOFLINE.level(size, 2)]
        assert ROOFLINE.bandwidth(size, 2) == rate[1]


def test_text_has_three_tables_and_sums(profile):
    text = str(profile)
    for part in ("In run order", "The slowest ten", "By kind of kernel", "sum of steps", "time stamps cost", "peak"):
        assert part in text
    assert "### By kind of kernel" in profile.to_markdown()
