"""bench.kernels: rows come from plans, and a wrong result is an error. No times are judged."""

import json

import numpy as np
import pytest
import torch

from bench import kernels, steps
from bench.operators import Operator
from bench.steps import Bench
from nanoinfer import create_model, runtime
from nanoinfer.graph import passes
from nanoinfer.graph.ops import OPS
from tests.guarded import HOST, tuned, unfused

SMALL_VIT = dict(image_size=64, patch_size=8, num_layers=2, hidden_dim=128, mlp_dim=256, num_heads=2)
FAST = ("--rounds", "1", "--threads", "2")


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch):
    monkeypatch.setattr(steps, "SECONDS", 1e-5)


def test_rows_match_the_steps_of_the_plan(tmp_path, capsys):
    path, machine = tmp_path / "rows.json", unfused(HOST)
    assert kernels.main(["--models", "digits", *FAST, "--json", str(path)], machine) == 0
    rows = json.loads(path.read_text())
    program = create_model("digits", "random", threads=2).planned_for(machine).program((1, 3, 96, 96))
    planned = {step.node.output for step in program.steps}
    assert {row["layer"] for row in rows} <= planned and len(rows) == len(capsys.readouterr().out.splitlines()) - 2
    kinds = {(row["kernel"], row["shapes"]) for row in rows}
    for step in program.steps:
        name = step.node.output
        shapes = " -> ".join("x".join(map(str, program.shapes[value])) for value in (step.node.inputs[0], name))
        assert any(shapes == known.removesuffix(" residual") and step.kernel in kernel for kernel, known in kinds), name
    for row in rows:
        assert row["passed"] and 0 <= row["error"] < 1e-6 and row["best"] <= row["median"]
        assert row["limit"] in ("compute", "L2", "L3", "memory") and row["percent"] > 0


def test_fused_blocks_have_rows_of_their_own(tmp_path):
    path, machine = tmp_path / "rows.json", tuned(HOST, min_intermediate_bytes=0.0)
    assert kernels.main(["--models", "digits", *FAST, "--json", str(path)], machine) == 0
    rows = json.loads(path.read_text())
    alone = [row for row in rows if row["kernel"] == "fused_f32"]
    steps = create_model("digits", "random", threads=2).planned_for(machine).program((1, 3, 96, 96)).steps
    assert alone and {row["layer"] for row in alone} <= {step.node.output for step in steps if step.node.op == "fused"}
    assert all(row["passed"] for row in rows) and any(row["kernel"].startswith("depthwise") for row in rows)


def test_equal_layers_share_one_row(capsys):
    assert kernels.main(["--models", "digits", "digits", *FAST, "--filter", "depthwise 3x3"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    keys = [line[:105] for line in lines]
    assert keys and len(set(keys)) == len(keys) and all(line.startswith("depthwise") for line in lines)


@pytest.mark.parametrize("fault", [lambda y: y * 1.001, lambda y: y + np.nan], ids=["differs", "nan"])
def test_wrong_result_is_an_error(fault, monkeypatch, capsys):
    plain = OPS["linear"].reference
    monkeypatch.setitem(OPS, "linear", type(OPS["linear"])(OPS["linear"].shape, lambda *a: fault(plain(*a))))
    assert kernels.main(["--models", "digits", *FAST, "--filter", "fc"]) == 1
    output = capsys.readouterr()
    assert "WRONG" in output.out and output.err.startswith("bench.kernels: wrong result: ")


def test_one_step_run_alone_repeats_its_output():
    model = create_model("digits", "random:1", threads=2)
    graph, tensors = passes.optimise(model.graph, model.tensors)
    bench = Bench(graph, tensors, (2, 3, 32, 32), threads=2)
    for node, rows in bench.nodes():
        before = bench.program.read_output(node.output)
        table, repeats = bench.call(rows)
        assert table.shape[-2] == repeats * len(rows) and (table[..., len(rows) - 1, -1] == 1).all()
        runtime.team(2).run(table)
        np.testing.assert_array_equal(bench.program.read_output(node.output), before)


def test_timing_one_row_keeps_the_inputs_of_the_others():
    # A timed product scales its weights by the gate again, in memory that holds a later layer's output by then.
    model = create_model("mobilenetv3_small_100", "random", threads=2)
    sources = [("mobilenetv3", *passes.optimise(model.graph, model.tensors), (1, 3, 64, 64))]
    rows = list(kernels.results([sources], steps.Limits(2), 1))
    assert len(rows) > 40 and all(row.passed for row in rows)


def test_gemm_rows(monkeypatch, capsys):
    monkeypatch.setattr(kernels.products, "__defaults__", (((49, 24, 40),),))
    assert kernels.main(["--gemm", *FAST]) == 0
    (line,) = capsys.readouterr().out.splitlines()[2:]
    assert "1x49x24 -> 1x49x40" in line


def test_torch_operators_compute_the_same():
    for name, size, arguments in (("mobilenetv3_small_050", 64, {}), ("resnet18", 64, {}), ("vit_b_32", 64, SMALL_VIT)):
        model = create_model(name, "random", threads=2, **arguments)
        graph, tensors = passes.optimise(model.graph, model.tensors)
        bench = Bench(graph, tensors, (1, 3, size, size), threads=2)
        seen = set()
        for node, rows in bench.nodes():
            if bench.key(node, rows) in seen:
                continue
            seen.add(bench.key(node, rows))
            with torch.inference_mode():
                y = Operator(node, tensors)(*map(torch.from_numpy, bench.inputs(node))).numpy()
            expected = bench.program.read_output(node.output)
            assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max(), (name, node.op)


def test_against_torch_adds_a_column(capsys):
    assert kernels.main(["--models", "digits", *FAST, "--filter", "fc", "--against", "torch"]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("torch")
