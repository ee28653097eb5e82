"""Which weights a plan asks for ahead of time."""

import math

import pytest

from nanoinfer import create_model
from nanoinfer.streaming import GAP


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "resnext50_32x4d"])
def test_single_use_weights_are_asked_for_before_their_step(name, threads):
    program = create_model(name, "random:1", threads=threads).program((1, 3, 224, 224))
    asked, steps = [], [step for step in program.steps if step.kernel[0] in ("convolution", "bands")]
    for number, step in enumerate(steps):
        inner = [(part, 1) for own in step.fields.get("programs", ()) for part in own]
        later = [part for part in steps[number + 1 :] if part.kernel[0] == "convolution"]
        for part, sharing in inner or [(step, threads)]:
            first = part.fields.get("later", 0)
            end = first + sharing * part.fields.get("later_bytes", 0)
            if first < end:
                assert any(part.fields["w"] - GAP < first < _end(part) for part in later)
                assert end - threads * 64 < max(_end(part) for part in later)
                asked.append((first, end))
    asked.sort()
    for (_, end), (first, _) in zip(asked, asked[1:], strict=False):
        assert end - threads * 64 < first, "asked for twice"
    pixels = {name: math.prod(shape[2:]) for name, shape in program.shapes.items()}
    once = sum(_end(step) - step.fields["w"] for step in steps if pixels[step.node.output] == 1)
    assert sum(end - first for first, end in asked) > once / 2


def _end(step):
    return step.fields["w"] + step.fields["panels"] * step.fields["w_panel"]
