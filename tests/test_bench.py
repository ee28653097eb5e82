"""bench.kernels: rows come from plans, a wrong result is an error; none of the times are judged."""

import json

import numpy as np
import pytest

from bench import kernels, steps
from bench.steps import Bench
from nanoinfer import create_model, runtime
from nanoinfer.graph import passes
from nanoinfer.graph.ops import OPS
from nanoinfer.lowering import fusion as bands
from nanoinfer.plan.program import tile_name

SMALL_VIT = dict(image_size=64, patch_size=8, num_layers=2, hidden_dim=128, mlp_dim=256, num_heads=2)
FAST = ("--rounds", "1", "--threads", "2")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(steps, "SECONDS", 1e-5)


def test_rows_are_those_of_the_plan(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bands, "WORTHWHILE", np.inf)
    path = tmp_path / "rows.json"
    assert kernels.main(["--models", "digits", *FAST, "--json", str(path)]) == 0
    rows = json.loads(path.read_text())
    program = create_model("digits", "random", threads=2).program((1, 3, 96, 96))
    planned = {step.node.output for step in program.steps}
    assert {row["layer"] for row in rows} <= planned and len(rows) == len(capsys.readouterr().out.splitlines()) - 2
    kinds = {(row["kernel"], row["shapes"]) for row in rows}
    for step in program.steps:
        name = step.node.output
        shapes = " -> ".join("x".join(map(str, program.shapes[value])) for value in (step.node.inputs[0], name))
        assert any(
            shapes == known.removesuffix(" residual") and tile_name(step) in kernel for kernel, known in kinds
        ), name
    for row in rows:
        assert row["passed"] and 0 <= row["error"] < 1e-6 and row["best"] <= row["median"]
        assert row["limit"] in ("compute", "L2", "L3", "memory") and row["percent"] > 0


def test_bands_have_rows_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(bands, "WORTHWHILE", 0.0)
    path = tmp_path / "rows.json"
    assert kernels.main(["--models", "digits", *FAST, "--json", str(path)]) == 0
    rows = json.loads(path.read_text())
    alone = [row for row in rows if row["kernel"] == "bands_f32"]
    steps = create_model("digits", "random", threads=2).program((1, 3, 96, 96)).steps
    assert alone and {row["layer"] for row in alone} <= {step.node.output for step in steps if step.node.op == "bands"}
    assert all(row["passed"] for row in rows) and any(row["kernel"].startswith("depthwise") for row in rows)


def test_a_row_appears_once(capsys):
    assert kernels.main(["--models", "digits", "digits", *FAST, "--filter", "depthwise 3x3"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    keys = [line[:105] for line in lines]
    assert keys and len(set(keys)) == len(keys) and all(line.startswith("depthwise") for line in lines)


@pytest.mark.parametrize("fault", [lambda y: y * 1.001, lambda y: y + np.nan], ids=["differs", "nan"])
def test_a_wrong_result_is_an_error(fault, monkeypatch, capsys):
    plain = OPS["linear"].reference
    monkeypatch.setitem(OPS, "linear", type(OPS["linear"])(OPS["linear"].shape, lambda *a: fault(plain(*a))))
    assert kernels.main(["--models", "digits", *FAST, "--filter", "fc"]) == 1
    output = capsys.readouterr()
    assert "WRONG" in output.out and output.err.startswith("bench.kernels: wrong result: ")


def test_a_step_can_be_run_again_alone():
    model = create_model("digits", "random:1", threads=2)
    graph, tensors = passes.optimise(model.graph, model.tensors)
    bench = Bench(graph, tensors, (2, 3, 32, 32), 2)
    for node, rows in bench.nodes():
        before = bench.program.give(node.output)
        table, repeats = bench.call(rows)
        assert table.shape[-2] == repeats * len(rows) and (table[..., len(rows) - 1, -1] == 1).all()
        runtime.team(2).run(table)
        np.testing.assert_array_equal(bench.program.give(node.output), before)


def test_no_row_spoils_another():
    # Weights that gates have scaled, scaled again when a product is timed, lie where a later layer's output is by then.
    model = create_model("mobilenetv3_small_100", "random", threads=2)
    sources = [("mobilenetv3", *passes.optimise(model.graph, model.tensors), (1, 3, 64, 64))]
    rows = list(kernels.results([sources], 2, 1, "", {}))
    assert len(rows) > 40 and all(row.passed for row in rows)


def test_products(monkeypatch, capsys):
    monkeypatch.setattr(kernels.products, "__defaults__", (((49, 24, 40),),))
    assert kernels.main(["--gemm", *FAST]) == 0
    (line,) = capsys.readouterr().out.splitlines()[2:]
    assert "1x49x24 -> 1x49x40" in line


def test_peers_compute_the_same():
    torch = pytest.importorskip("torch")
    from bench.operators import Operator

    for name, size, arguments in (("mobilenetv3_small_050", 64, {}), ("resnet18", 64, {}), ("vit_b_32", 64, SMALL_VIT)):
        model = create_model(name, "random", threads=2, **arguments)
        graph, tensors = passes.optimise(model.graph, model.tensors)
        bench = Bench(graph, tensors, (1, 3, size, size), 2)
        seen = set()
        for node, rows in bench.nodes():
            if bench.key(node, rows) in seen:
                continue
            seen.add(bench.key(node, rows))
            with torch.inference_mode():
                y = Operator(node, tensors)(*map(torch.from_numpy, bench.inputs(node))).numpy()
            expected = bench.program.give(node.output)
            assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max(), (name, node.op)


def test_against_torch(capsys):
    pytest.importorskip("torch")
    assert kernels.main(["--models", "digits", *FAST, "--filter", "fc", "--against", "torch"]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("torch")
