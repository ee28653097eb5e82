"""summary: the walkthrough's table, and torchinfo's own table of every mission architecture."""

import json
import math
import re
from pathlib import Path

import pytest

from bench import references
from nanoinfer import InputError, cli, create_model
from nanoinfer.architectures import MODELS
from nanoinfer.reports.summary import summarise

FACTS = json.loads((Path(__file__).parents[1] / "data" / "summary_article.json").read_text())
NAMES = (
    "mobilenetv2_140",
    "mobilenetv3_small_100",
    "resnext50_32x4d",
    "vit_b_32",
    "mobilenet_v2",
    "mobilenetv2_article",
    "resnet18",
    "mobilenetv3_large_100",
)
OUR_NAMES = {"ArticleMobileNetV2": "MobileNetV2", "ConvNormAct": "Conv"}  # the walkthrough's, for bench's classes


def of(name, *size, **options):
    return summarise(name, MODELS[name].graph(), size or (1, 3, 224, 224), **options)


def test_article_rows_and_totals():
    summary = create_model("mobilenetv2_article", "random").summary()
    rows = [[row.kind, row.depth, row.index, row.output_shape, row.parameters] for row in summary.rows]
    expected = [[*row[:3], tuple(row[3]) if row[3] else None, row[4]] for row in FACTS["rows"]]
    assert rows == expected
    totals, facts = summary.totals(), FACTS["totals"]
    assert f"{totals['total_params']:,}" == facts["total_params"]
    assert f"{totals['total_mult_adds'] / 1e6:.2f}" == facts["total_mult_adds"]
    for key in ("input_mb", "forward_backward_mb", "params_mb", "total_mb"):
        assert f"{totals[key]:.2f}" == facts[key], key
    for line in ("Total params: 3,505,960", "Total mult-adds (M): 313.65", "Estimated Total Size (MB): 127.91"):
        assert line in str(summary).splitlines()
    assert "│    │    └─BatchNorm2d: 3-112" in str(summary)


def test_article_shape_trace(capsys):
    assert cli.main(["summary", "mobilenetv2_article", "--trace"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.removeprefix("after ").split(" : ") for line in lines] == [
        [f"{name:16}", str(shape)] for name, shape in FACTS["trace"]
    ]


def test_trace_shows_members_of_lists():
    stages = dict(of("vit_b_32").trace.stages)
    assert stages["conv_proj"] == (1, 768, 7, 7)
    assert stages["encoder.layers #11"] == (1, 50, 768)
    assert stages["class_token"] == (1, 768)
    stages = dict(of("mobilenetv3_small_100", 2, 3, 64, 96).trace.stages)
    assert stages["blocks.5 #0"] == (2, 576, 2, 3)
    assert list(dict(of("resnet18").trace.stages))[-3:] == ["avgpool", "flatten", "fc"]


@pytest.mark.parametrize("name", NAMES)
def test_rows_and_totals_match_torchinfo(name):
    torchinfo = pytest.importorskip("torchinfo")
    size = (2, 3, 224, 224) if name.startswith("vit") else (2, 3, 96, 64)
    expected = torchinfo.summary(references.reference(name), input_size=size, depth=99, verbose=0)
    summary = of(name, *size)

    def theirs(info):
        kind = OUR_NAMES.get(info.class_name, info.class_name)
        if name == "mobilenetv2_article" and kind == "InvertedResidual":
            kind = f"InvResidualS{info.module.dwconv.stride[0]}"
        leaf = info.is_leaf_layer
        parameters = info.num_params if leaf else info.leftover_params()
        kernel = info.kernel_size
        kernel = tuple(kernel) if isinstance(kernel, list) else (kernel, kernel) if kernel else None
        shape = tuple(info.output_size) or None
        mult_adds = info.macs if leaf else 0
        return kind, info.depth, info.depth_index, shape, parameters, kernel, mult_adds, leaf

    ours = [
        (r.kind, r.depth, r.index, r.output_shape, r.parameters, r.kernel, r.mult_adds, r.leaf) for r in summary.rows
    ]
    assert ours == [theirs(info) for info in expected.summary_list]
    assert summary.total_params == expected.total_params
    assert summary.trainable_params == expected.trainable_params
    assert summary.total_mult_adds == expected.total_mult_adds
    assert summary.forward_backward_mb == expected.total_output_bytes / 1e6
    assert summary.params_mb == expected.total_param_bytes / 1e6
    # torchinfo adds the few bytes of Python's own storage object.
    assert summary.input_mb == pytest.approx(expected.total_input / 1e6, abs=1e-4)


@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "resnet18"])
def test_rows_at_depth_limit_include_rows_below(name):
    torchinfo = pytest.importorskip("torchinfo")
    columns = ("output_size", "num_params", "kernel_size", "mult_adds")
    expected = torchinfo.summary(
        references.reference(name), input_size=(1, 3, 64, 64), depth=2, verbose=0, col_names=columns, col_width=30
    )
    width, lines = expected.formatting.layer_name_width, str(expected).splitlines()[3:]
    rows = lines[: next(at for at, line in enumerate(lines) if line.startswith("==="))]
    rows = [[line[:width].rstrip(), *re.split(r"\s{2,}", line[width:].strip())] for line in rows]
    ours = [list(row) for row in of(name, 1, 3, 64, 64, depth=2).tables()[0].cells()]
    for row, line in zip(ours, rows, strict=True):
        assert row[:3] == line[:3]
        assert row[4] == line[4]


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_a_summary(name):
    graph = MODELS[name].graph()
    crop = MODELS[name].preprocessing.crop
    summary = summarise(name, graph, (1, 3, *crop))
    assert summary.total_params == sum(map(math.prod, graph.parameters.values()))
    assert sum(row.parameters for row in summary.rows) == summary.total_params
    assert summary.trace.stages[-1][1] == summary.rows[0].output_shape
    assert {row.name for row in summary.rows} >= set(graph.modules)


def test_summary_command_formats(capsys):
    assert cli.main(["summary", "mobilenetv2_article", "--input-size", "1", "3", "224", "224"]) == 0
    out = capsys.readouterr().out
    assert "├─Linear: 1-12" in out and "Total mult-adds (M): 313.65" in out
    assert cli.main(["summary", "resnet18", "--format", "json", "--depth", "1"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["total_params"] == 11689512 and {row["depth"] for row in value["rows"]} == {0, 1}
    assert cli.main(["summary", "resnet18", "--format", "csv"]) == 0
    assert "\nlayer1.0.conv1,Conv2d,3,1,1x64x56x56,36864,3x3,115605504\n" in capsys.readouterr().out
    assert cli.main(["summary", "resnet18", "--format", "csv", "--trace"]) == 0
    assert "layer4 #1,1x512x7x7\n" in capsys.readouterr().out
    assert cli.main(["summary", "resnet18", "--format", "markdown"]) == 0
    assert "\n| --- | --- | ---: | --- | ---: |\n" in capsys.readouterr().out


def test_summary_refuses_bad_input(capsys):
    assert cli.main(["summary", "resnet"]) == 2
    assert "did you mean" in capsys.readouterr().err
    assert cli.main(["summary", "vit_b_32", "--input-size", "1", "3", "64", "64"]) == 2
    assert "vit_b_32 cannot take an input of shape (1, 3, 64, 64)" in capsys.readouterr().err
    with pytest.raises(InputError, match="four whole numbers"):
        of("resnet18", 3, 224, 224)
    with pytest.raises(InputError, match="channels"):
        of("resnet18", 1, 4, 224, 224)
