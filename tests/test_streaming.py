"""What a plan asks for ahead of time: weights that are used once, and lines that bands read and write."""

import math

import pytest

from nanoinfer import create_model
from nanoinfer.streaming import GAP


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "resnext50_32x4d"])
def test_what_is_used_once_is_asked_for_before_its_step(name, threads):
    program = create_model(name, "random:1", threads=threads).program((1, 3, 224, 224))
    asked, bands, steps = [], set(), [step for step in program.steps if step.kernel[0] in ("convolution", "bands")]
    for number, step in enumerate(steps):
        later = [part for part in steps[number + 1 :] if part.kernel[0] == "convolution"]
        inner = [(part, own[at + 1 :]) for own in step.fields.get("programs", ()) for at, part in enumerate(own)]
        for part, behind in inner or [(step, ())]:
            first, size = part.fields.get("later", 0), part.fields.get("later_bytes", 0)
            end = first + (1 if inner else threads) * size
            lines = next((other.streams for other in behind if other.streams), ())
            if any(start <= first and end - 64 < start + length for start, length in lines):
                bands.add(step.node.output)
            elif size:
                assert any(part.fields["w"] - GAP < first < _end(part) for part in later)
                assert end - threads * 64 < max(_end(part) for part in later)
                asked.append((first, end))
    asked.sort()
    for (_, end), (first, _) in zip(asked, asked[1:], strict=False):
        assert end - threads * 64 < first, "asked for twice"
    assert bands == {step.node.output for step in steps if step.kernel[0] == "bands"}, "bands ask for their lines"
    pixels = {name: math.prod(shape[2:]) for name, shape in program.shapes.items()}
    once = sum(_end(step) - step.fields["w"] for step in steps if pixels[step.node.output] == 1)
    assert sum(end - first for first, end in asked) > once / 2


def _end(step):
    return step.fields["w"] + step.fields["panels"] * step.fields["w_panel"]
