"""What a plan asks for ahead of time: weights that are used once, and lines that bands read and write."""

import math

import pytest

from nanoinfer import create_model
from nanoinfer.lowering import fusion as bands
from nanoinfer.lowering import layout
from nanoinfer.machine import target
from nanoinfer.plan.prefetch import GAP


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "resnext50_32x4d"])
def test_what_is_used_once_is_asked_for_before_its_step(name, threads, monkeypatch):
    monkeypatch.setattr(bands, "cache_sizes", lambda: (32 << 10, 1 << 20, 32 << 20))
    program = create_model(name, "random:1", threads=threads).program((1, 3, 224, 224))
    places = {value: program.arena.ctypes.data + offset for value, offset in program.offsets.items()}
    steps = [step for step in program.steps if step.kernel[0] in ("convolution", "bands", "strassen")]
    asked, read, written = [], set(), set()
    for number, step in enumerate(steps):
        later = [part for part in steps[number + 1 :] if part.kernel[0] == "convolution"]
        inner = [(part, own[at + 1 :]) for own in step.fields.get("programs", ()) for at, part in enumerate(own)]
        for part, behind in inner or [(step, ())]:
            first, size = part.fields.get("later", 0), part.fields.get("later_bytes", 0)
            end = first + (1 if inner else threads) * size
            lines = [stretch for other in behind for stretch in other.streams]
            if any(start <= first and end - 64 < start + length for start, length in lines):
                owner = max((at, value) for value, at in places.items() if at <= first and _near(step, value))[1]
                assert end - 64 < places[owner] + _bytes(program.shapes[owner])
                (written if owner == step.node.output else read).add(owner)
            elif size:
                assert part.fields["w_panel"], "max pooling asks for nothing"
                assert any(part.fields["w"] - GAP < first < _end(part) for part in later)
                assert end - threads * 64 < max(_end(part) for part in later)
                asked.append((first, end))
    asked.sort()
    for (_, end), (first, _) in zip(asked, asked[1:], strict=False):
        assert end - threads * 64 < first, "asked for twice"
    pixels = {name: math.prod(shape[2:]) for name, shape in program.shapes.items()}
    once = sum(_end(step) - step.fields["w"] for step in steps if pixels[step.node.output] == 1)
    assert sum(end - first for first, end in asked) > once / 2
    far = [node for node in (step.node for step in steps) if node.op == "bands" and name.startswith("resnext")]
    large = {value for value in program.shapes if _bytes(program.shapes[value]) > threads << 19}
    assert written == {node.output for node in far} & large, "lines that bands write"
    assert read >= {node.inputs[0] for node in far} & large, "lines that bands read"


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "resnext50_32x4d"])
def test_a_product_asks_for_the_first_panel_of_the_next(name, threads):
    program = create_model(name, "random:1", threads=threads).program((1, 3, 224, 224))
    for thread in range(threads):
        products = []  # (what the thread asks for with its last panel, its first panel), in order
        for step in program.steps:
            own = step.fields.get("programs", [()] * threads)[thread]
            for part, at in [(inner, 0) for inner in own] or [(step, thread)]:
                if part.kernel == ("convolution",) and part.fields["w_panel"]:
                    panel = -(-part.fields["panels"] * at // threads) if part.fields["split_panels"] else 0
                    asked = part.fields["after"] + at * part.fields["after_thread"]
                    products.append((asked, part.fields["w"] + panel * part.fields["w_panel"]))
        assert len(products) > 30
        for (asked, _), (_, first) in zip(products, products[1:], strict=False):
            assert asked == first


def _near(step, value):
    return value in (*step.node.inputs, step.node.output)


def _bytes(shape):
    return layout.nhwc(shape, 0, target.host().lanes).bytes


def _end(step):
    return step.fields["w"] + step.fields["panels"] * step.fields["w_panel"]
