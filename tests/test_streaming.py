"""Which weights a plan asks for ahead of time."""

import math

import pytest

from nanoinfer import create_model
from nanoinfer.streaming import GAP


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "resnext50_32x4d"])
def test_single_use_weights_are_asked_for_before_their_step(name, threads):
    program = create_model(name, "random:1", threads=threads).program((1, 3, 224, 224))
    steps = [step for step in program.steps if step.kernel == ("convolution",) and step.fields["w_panel"]]
    asked = []
    for number, step in enumerate(steps):
        first = step.fields["later"]
        end = first + threads * step.fields["later_bytes"]
        if first == end:
            continue
        weights = [(later.fields["w"], _end(later)) for later in steps[number + 1 :]]
        assert any(start - GAP < first < stop for start, stop in weights)
        assert end - threads * 64 < max(stop for _, stop in weights)
        asked.append((first, end))
    asked.sort()
    for (_, end), (first, _) in zip(asked, asked[1:], strict=False):
        assert end - threads * 64 < first, "asked for twice"
    pixels = {name: math.prod(shape[2:]) for name, shape in program.shapes.items()}
    once = sum(_end(step) - step.fields["w"] for step in steps if pixels[step.node.output] == 1)
    assert sum(end - first for first, end in asked) > once / 2


def _end(step):
    return step.fields["w"] + step.fields["panels"] * step.fields["w_panel"]
