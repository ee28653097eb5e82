"""What programs prefetch: weights that are used once, rows of fused blocks, the next product's first micro-panel."""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from nanoinfer.kernels import convolution

from nanoinfer import create_model
from nanoinfer.graph import Node
from nanoinfer.lowering import Step
from nanoinfer.lowering.step import TiledRegion
from nanoinfer.plan.prefetch import schedule_prefetch
from tests.guarded import DOUBLE_PUMPED, blank, value_bytes

LINE = 64
MACHINE = replace(DOUBLE_PUMPED, l2_bytes=1 << 20, l3_bytes=32 << 20)
TUNING = MACHINE.tuning._replace(prefetch_step=LINE)
GAP = TUNING.lookahead_gap


def product(w, panels, panel_stride, tiles, lines=0):
    """A product whose `tiles` tiles can prefetch that many cache lines each."""
    region = blank(convolution.Region, run_tiles=tiles, runs=1)
    call = blank(convolution.Instruction, w=w, panels=panels, panel_stride=panel_stride, images=1, block_tiles=1 << 40)
    loops = blank(convolution.TileLoops, taps_y=1, taps_x=1, k=lines)
    tiled = TiledRegion(region, loops, None, None, np.zeros(0, np.int64))
    return Step(convolution.LoopNest(), call, Node("conv2d", ("x",), "y"), regions=(tiled,))


def test_weights_of_a_later_step_are_prefetched_as_budgets_allow():
    """Two products with room for 3 and 9 tiles of 128 bytes prefetch a head that has no room for itself."""
    first, second, head = product(0x1000, 1, 128, 4, 2), product(0x2000, 1, 128, 10, 2), product(0x9000, 4, 512, 1)
    schedule_prefetch([first, second, head], 1, TUNING)
    assert (second.instruction.lookahead, second.instruction.lookahead_bytes) == (0x9000, 9 * 128), (
        "the nearest takes the beginning"
    )
    assert (first.instruction.lookahead, first.instruction.lookahead_bytes) == (0x9000 + 9 * 128, 3 * 128)
    assert head.instruction.lookahead_bytes == 0


def test_last_panel_prefetches_the_next_product():
    first, second = product(0x1000, 2, 512, 4, 2), product(0x2000, 1, 512, 4, 2)
    schedule_prefetch([first, second], 1, TUNING)
    assert (first.instruction.next_panel, second.instruction.next_panel) == (0x2000, 0)


@pytest.mark.parametrize("tiles, step", [(2, 64), (5, 26), (16, 8), (100, 8)])
def test_next_micro_panel_comes_in_as_slowly_as_tiles_allow(tiles, step):
    """A micro-panel of 128 bytes for each of 10 steps over k, and nothing else to prefetch."""
    only = product(0x1000, 4, 1280, tiles, 10)
    schedule_prefetch([only], 1, TUNING._replace(slowest_prefetch_step=8))
    ((region, loops, *_),) = only.regions
    assert (loops.prefetch_step, region.prefetch_bytes) == (step, 10 * step)
    assert region.panel_prefetch_tiles == min(tiles, 16)


@pytest.mark.parametrize("gap, ranges", [(0, 1), (256, 1), (257, 2)])
def test_close_weights_are_one_range(gap, ranges):
    """Two heads of 512 bytes: with a small gap between them, one product prefetches both at once."""
    wide, head, last = product(0x1000, 1, 128, 100, 2), product(0x9000, 1, 512, 1), product(0x9200 + gap, 1, 512, 1)
    schedule_prefetch([wide, head, last], 1, TUNING._replace(lookahead_gap=256))
    assert wide.instruction.lookahead_bytes == (1024 + gap if ranges == 1 else 512)


def test_rows_of_fused_blocks_come_before_weights():
    head, inner, writer = product(0x9000, 1, 512, 1), product(0x1000, 1, 128, 100, 2), product(0x2000, 1, 128, 2, 2)
    writer.prefetch_ranges = ((0x70000, 1024),)
    fused = Step(None, None, Node("fused", ("x",), "y"), programs=([inner, writer],))
    schedule_prefetch([fused, head], 1, TUNING)
    assert (inner.instruction.lookahead, inner.instruction.lookahead_bytes) == (0x70000, 1024)
    assert (writer.instruction.lookahead, writer.instruction.lookahead_bytes) == (0x9000, 128)


class Prefetch(NamedTuple):
    """The bytes from `start` to `end` that a step prefetches ahead; end 0 if it prefetches none."""

    part: Step  # the step; within a fused block, one of its products
    start: int
    end: int
    later: list[Step]  # steps with tiles after it
    of_rows: bool  # rows that a later product of the same fused block reads or writes, not weights
    node: Node


def prefetches(program, threads):
    steps = [step for step in program.steps if step.regions or step.programs]
    for number, step in enumerate(steps):
        later = [part for part in steps[number + 1 :] if part.regions]
        inner = [(part, own[at + 1 :]) for own in step.programs for at, part in enumerate(own) if part.regions]
        for part, following in inner or [(step, ())]:
            start, size = part.instruction.lookahead, part.instruction.lookahead_bytes
            end = start + (1 if inner else threads) * size
            rows = [stretch for other in following for stretch in other.prefetch_ranges]
            of_rows = any(first <= start and end - LINE < first + length for first, length in rows)
            yield Prefetch(part, start, end if size else 0, later, of_rows, step.node)


def end_of_weights(step):
    return step.instruction.w + step.instruction.panels * step.instruction.panel_stride


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "resnext50_32x4d"])
def test_prefetch_covers_single_use_weights(name, threads):
    program = create_model(name, "random:1", threads=threads).planned_for(MACHINE).program((1, 3, 224, 224))
    ranges = []
    for prefetch in prefetches(program, threads):
        if prefetch.end and not prefetch.of_rows:
            assert prefetch.part.has_weights, "max pooling prefetches no weights"
            assert any(part.instruction.w - GAP < prefetch.start < end_of_weights(part) for part in prefetch.later)
            assert prefetch.end - threads * LINE < max(end_of_weights(part) for part in prefetch.later)
            ranges.append((prefetch.start, prefetch.end))
    ranges.sort()
    for (_, end), (start, _) in zip(ranges, ranges[1:], strict=False):
        assert end - threads * LINE < start, "prefetched twice"
    pixels = {name: math.prod(shape[2:]) for name, shape in program.shapes.items()}
    heads = [step for step in program.steps if step.regions and pixels[step.node.output] == 1]
    once = sum(end_of_weights(step) - step.instruction.w for step in heads)
    assert sum(end - start for start, end in ranges) > once / 2


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "resnext50_32x4d"])
def test_fused_blocks_prefetch_their_large_rows(name, threads):
    program = create_model(name, "random:1", threads=threads).planned_for(MACHINE).program((1, 3, 224, 224))
    addresses = {value: program.arena.ctypes.data + offset for value, offset in program.offsets.items()}
    read, written = set(), set()
    for prefetch in prefetches(program, threads):
        if prefetch.of_rows:
            near = (*prefetch.node.inputs, prefetch.node.output)
            start, owner = max((at, value) for value, at in addresses.items() if at <= prefetch.start and value in near)
            assert prefetch.end - LINE < start + value_bytes(program.shapes[owner], MACHINE)
            (written if owner == prefetch.node.output else read).add(owner)
    fused = [step.node for step in program.steps if step.node.op == "fused" and name.startswith("resnext")]
    large = {value for value, shape in program.shapes.items() if value_bytes(shape, MACHINE) > threads << 19}
    assert written == {node.output for node in fused} & large, "rows that fused blocks write"
    assert read >= {node.inputs[0] for node in fused} & large, "rows that fused blocks read"


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "resnext50_32x4d"])
def test_every_product_prefetches_the_next_first_panel(name, threads):
    program = create_model(name, "random:1", threads=threads).program((1, 3, 224, 224))
    for thread in range(threads):
        products = []  # (what the thread prefetches with its last micro-panel, its first micro-panel), in order
        for step in program.steps:
            own = step.programs[thread] if step.programs else ()
            for part, at in [(inner, 0) for inner in own] or [(step, thread)]:
                if part.has_weights:
                    call = part.instruction
                    panel = -(-call.panels * at // threads) if call.parallel_n else 0
                    following = call.next_panel + at * call.next_panel_thread_stride
                    products.append((following, call.w + panel * call.panel_stride))
        assert len(products) > 30
        for (following, _), (_, first) in zip(products, products[1:], strict=False):
            assert following == first
