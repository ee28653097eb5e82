"""bench.tour: every step is right at any shape, a wrong one is noticed, and the document quotes its code."""

import re
from pathlib import Path

import numpy as np
import pytest

from bench import tour, tour_kernels
from bench.tour_kernels import Matmul
from nanoinfer.machine import host

ROOT = Path(__file__).parents[2]
NAMES = (
    "1 naive",
    "2 register tile",
    "3 packed micro-panels",
    "4 cache blocks",
    "5 prefetch",
    "6 layer: 5, then three passes",
    "6 layer: fused epilogue",
    "  the project's own kernel",
)
SMALL = (40, 20, 70)  # neither pixels nor output channels come out even
FAST = ("--rounds", "1", "--shape", *map(str, SMALL))


def test_every_step_is_printed_with_a_small_error(capsys):
    assert tour.main(FAST) == 0
    output = capsys.readouterr().out
    for name in NAMES:
        (line,) = (line for line in output.splitlines() if line.startswith(name))
        *figures, percent, median_percent, error = line.removeprefix(name).split()
        best, median, gflops = map(float, figures)
        assert 0 < best <= median and gflops > 0 and percent.endswith("%") and median_percent.endswith("%")
        assert 0 <= float(error) < 1e-6


@pytest.mark.parametrize("shape", [(14, 1, 3), (33, 300, 64), (250, 500, 33)], ids=str)
def test_steps_at_other_shapes(shape):
    for step in tour.steps(shape, host()):
        assert step.error() < 3e-6, step.name


def test_fused_layer_has_the_bits_of_the_project_kernel():
    *_, fused, own = tour.steps(SMALL, host())
    fused.run()
    own.run()
    np.testing.assert_array_equal(fused.output(), own.output())


def without_last_panel(spec: Matmul):
    step = tour_kernels.packed_panels(spec)
    return lambda x, w, y: step(x, w[:-1], y)


def with_a_wrong_weight(spec: Matmul):
    step = tour_kernels.packed_panels(spec)
    return lambda x, w, y: step(x, np.where(np.arange(w.size).reshape(w.shape) == 7, w + 1, w), y)


@pytest.mark.parametrize("wrong", [without_last_panel, with_a_wrong_weight])
def test_wrong_step_is_an_error(wrong, monkeypatch, capsys):
    step = wrong(Matmul(host().tuning.matmul_mr[tour.NR], tour.NR, host().lanes, "piecewise"))
    monkeypatch.setattr(tour_kernels, "packed_panels", lambda spec: step)
    assert tour.main(FAST) == 1
    output = capsys.readouterr()
    (line,) = (line for line in output.out.splitlines() if line.endswith("WRONG"))
    assert line.startswith("3 packed micro-panels")
    assert output.err.startswith("bench.tour: wrong result: 3 packed micro-panels: error ")


def test_fewer_pixels_than_a_tile_are_refused(capsys):
    with pytest.raises(SystemExit):
        tour.main(["--shape", "1", "20", "70"])
    assert "M has to be at least" in capsys.readouterr().err


def lines_of(text: str) -> list[str]:
    """Lines without indentation and comments at their ends."""
    return [stripped for line in text.splitlines() if (stripped := re.sub(r"  #.*", "", line).strip())]


def test_document_quotes_the_source():
    document = (ROOT / "docs" / "kernel-tour.md").read_text(encoding="utf-8")
    source = "\n".join(lines_of((ROOT / "bench" / "tour_kernels.py").read_text(encoding="utf-8")))
    quotes = re.findall(r"```python\n(.*?)```", document, re.DOTALL)
    assert len(quotes) >= 6
    for quote in quotes:
        for part in re.split(r"^\s*\.\.\.\n", quote, flags=re.MULTILINE):
            assert "\n".join(lines_of(part)) in source, part


def test_document_names_files_and_fields_that_exist():
    document = (ROOT / "docs" / "kernel-tour.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"`((?:kernels|nanoinfer|bench|docs)/[\w/]+\.\w+)`", document))
    assert paths and all((ROOT / path).exists() for path in paths), paths
    code = "\n".join((ROOT / path).read_text(encoding="utf-8") for path in paths if path.endswith(".py"))
    records = "Instruction|Region|TileLoops|TileCall|Tuning|Numerics|Matmul"
    for record, name in re.findall(rf"`({records})\.(\w+)`", document):
        assert re.search(rf"^class {record}\b(?:(?!^class ).)*?^    {name}:", code, re.MULTILINE | re.DOTALL), name
    for names, path in re.findall(r"((?:`\w+`(?: and )?)+) in\s+`([\w/]+\.py)`", document):
        for name in re.findall(r"\w+", names.replace(" and ", " ")):
            assert re.search(rf"^ *(def )?{name}\b", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), name
