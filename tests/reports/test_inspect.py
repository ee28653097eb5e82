"""inspect: the parameter pages, figure by figure; files; formats; the plot."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from nanoinfer.weights import save_safetensors

import nanoinfer
from nanoinfer import InputError, cli
from nanoinfer.reports.inspect import Parameter, ParameterReport

DATA = Path(__file__).parents[1] / "data"
PAGES = json.loads((DATA / "parameter_pages.json").read_text())
SHAPES = json.loads((DATA / "parameters.json").read_text())["parameters"]


def tables(page):
    """The tables of a Markdown page, as lists of rows of cells, titles first."""
    found, inside = [], False
    for line in page.splitlines():
        if line.startswith("|"):
            if not inside:
                found.append([])
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        inside = line.startswith("|")
    return [[rows[0], *rows[2:]] for rows in found]


@pytest.mark.parametrize("name", PAGES)
def test_markdown_matches_published_page(name, capsys):
    facts = PAGES[name]
    assert cli.main(["inspect", name, "--format", "markdown"]) == 0
    page = capsys.readouterr().out
    assert page.startswith(f"# {name} parameter information\n")
    assert f"**Number of layers: [ {facts['layers']} ]**\n" in page
    assert facts["size"] in next(line for line in page.splitlines() if "Number of parameters:" in line)
    if "MiB" in facts["size"]:
        assert f"**Number of trainable parameters: {facts['size']}**\n" in page
    by_layers, by_parameters, rows = tables(page)
    assert by_layers == [facts["forms"], facts["of_layers"]]
    assert by_parameters == [facts["forms"], facts["of_parameters"]]
    assert rows[0] == ["Name", "Shape", "Squeezed shape", "Number of parameters", "Form"]
    expected = [
        [key, str(tuple(shape)), squeezed, str(number), form]
        for (key, shape), (squeezed, number, form) in zip(SHAPES[name], facts["rows"], strict=True)
    ]
    assert rows[1:] == expected
    assert len(expected) == facts["layers"]


def test_report_values():
    report = nanoinfer.inspect("mobilenetv2_140")
    assert isinstance(report, ParameterReport)
    assert (len(report.layers), report.parameters, report.buffers) == (158, 6108776, 104)
    assert report.mebibytes == pytest.approx(23.303, abs=5e-4)
    share = report.shares[0]
    assert (share.form, round(share.of_layers, 2), round(share.of_parameters, 2)) == ("Vector", 66.46, 0.8)
    assert nanoinfer.inspect(nanoinfer.create_model("mobilenetv2_140", "random")) == report
    assert json.loads(report.to_json()) == report.to_dict()
    assert str(report).startswith("mobilenetv2_140: 158 layers, 6,108,776 parameters, 23.303 MiB, 104 buffers\n")


def test_submodule_imports_keep_package_functions():
    import nanoinfer.reports.compare
    import nanoinfer.reports.inspect  # noqa: F401

    assert callable(nanoinfer.inspect) and callable(nanoinfer.compare)


@pytest.mark.parametrize(
    "shape, squeezed, form",
    [
        ((1,), (), "Scalar"),
        ((7, 1, 1, 1), (7,), "Vector"),
        ((1, 50, 768), (50, 768), "Matrix"),
        ((8, 1, 3, 3), (8, 3, 3), "Tensor rank 3"),
        ((8, 2, 3, 3, 3), (8, 2, 3, 3, 3), "Tensor rank 5"),
    ],
)
def test_squeezed_shape_and_form(shape, squeezed, form):
    parameter = Parameter("x", shape)
    assert (parameter.squeezed, parameter.form) == (squeezed, form)


def test_buffers_in_files_are_not_counted(tmp_path, capsys):
    arrays = {
        "conv.weight": np.zeros((4, 3, 1, 1), np.float32),
        "bn.weight": np.zeros(4, np.float32),
        "bn.running_mean": np.zeros(4, np.float32),
        "bn.running_var": np.zeros(4, np.float32),
        "bn.num_batches_tracked": np.zeros((), np.int64),
    }
    path = tmp_path / "small.safetensors"
    save_safetensors(arrays, path)
    for source in (path, str(path), arrays):
        report = nanoinfer.inspect(source)
        assert {layer.name: layer.shape for layer in report.layers} == {"conv.weight": (4, 3, 1, 1), "bn.weight": (4,)}
        assert (report.parameters, report.buffers) == (16, 3)
    assert cli.main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "small.safetensors: 2 layers, 16 parameters" in out and "3 buffers" in out
    with pytest.raises(InputError, match="holds no parameters"):
        nanoinfer.inspect({"bn.running_mean": np.zeros(4, np.float32)})


def test_notes_of_a_file_are_said(tmp_path, capsys):
    path = tmp_path / "small.safetensors"
    save_safetensors({"module.conv.weight": np.zeros((4, 3, 1, 1), np.float32)}, path)
    note = "removes the prefix 'module.' of all names"
    for source in (path.read_bytes(), open(path, "rb"), tmp_path, f"{tmp_path}/"):
        report = nanoinfer.inspect(source)
        assert report.layers[0].name == "conv.weight" and report.notes[-1] == note and report.name
    assert cli.main(["inspect", str(path), "--format", "csv"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("name,") and err == f"nanoinfer: small.safetensors: {note}\n"
    with pytest.raises(InputError, match="weights cannot be of class int; give a path"):
        nanoinfer.inspect(3)


def test_formats_have_the_same_rows(capsys):
    printed = {}
    for form in ("table", "json", "csv", "markdown"):
        assert cli.main(["inspect", "digits", "--format", form]) == 0
        printed[form] = capsys.readouterr().out
    rows = json.loads(printed["json"])["rows"]
    assert [row["name"] for row in csv.DictReader(io.StringIO(printed["csv"]))] == [row["name"] for row in rows]
    assert [row[0] for row in tables(printed["markdown"])[2][1:]] == [row["name"] for row in rows]
    assert all(row["name"] in printed["table"] for row in rows)
    assert "11x3x3x3" in printed["csv"]


def test_plot_of_shares(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert cli.main(["inspect", "digits", "--plot", str(tmp_path / "pie.png")]) == 0
    assert (tmp_path / "pie.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main(["inspect", "digits", "--plot", str(tmp_path / "pie.nothing")]) == 2
    assert "nothing" in capsys.readouterr().err
    for path in (tmp_path, ""):
        assert cli.main(["inspect", "digits", "--plot", str(path)]) == 2
        assert "name the plot .png" in capsys.readouterr().err


@pytest.mark.parametrize(
    "source, message", [("mobilenetv2_14", "did you mean mobilenetv2_140"), ("no/such.pth", "no such file")]
)
def test_unknown_source_is_refused(source, message, capsys):
    assert cli.main(["inspect", source]) == 2
    assert message in capsys.readouterr().err
