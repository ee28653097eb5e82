"""The memory planner: buffers that live at the same time never overlap, and the arena is not much above the peak."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanoinfer.architectures import MODELS
from nanoinfer.graph import ops, passes
from nanoinfer.lowering.layout import ALIGNMENT
from nanoinfer.plan import memory
from tests.guarded import HOST


@st.composite
def buffers(draw, most=25):
    """(sizes, lifetimes) of named buffers."""
    rows = draw(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 12), st.integers(0, 6)), max_size=most))
    sizes = {f"b{n}": size for n, (size, _, _) in enumerate(rows)}
    return sizes, {f"b{n}": (first, first + length) for n, (_, first, length) in enumerate(rows)}


def aligned(size):
    return -(-size // ALIGNMENT) * ALIGNMENT


def peak(sizes, lifetimes):
    """The most bytes alive in any step, each buffer rounded up to its alignment: no arena can do with less."""
    steps = {step for first, last in lifetimes.values() for step in (first, last)}
    alive = [[n for n, (first, last) in lifetimes.items() if first <= step <= last and n in sizes] for step in steps]
    return max((sum(aligned(sizes[n]) for n in names) for names in alive), default=0)


@settings(max_examples=300, deadline=None)
@given(buffers())
def test_offsets_never_overlap_while_alive(case):
    sizes, lifetimes = case
    offsets, total = memory.assign_offsets(sizes, lifetimes)
    assert offsets.keys() == sizes.keys()
    assert all(offset >= 0 and offset % ALIGNMENT == 0 for offset in offsets.values())
    assert all(offsets[name] + sizes[name] <= total for name in sizes)
    for one in sizes:
        for other in sizes:
            meet = lifetimes[one][0] <= lifetimes[other][1] and lifetimes[other][0] <= lifetimes[one][1]
            if one != other and meet and sizes[one] and sizes[other]:
                assert offsets[one] + sizes[one] <= offsets[other] or offsets[other] + sizes[other] <= offsets[one]
    steps = range(20)
    live = max(sum(sizes[n] for n, (first, last) in lifetimes.items() if first <= step <= last) for step in steps)
    assert live <= total <= sum(aligned(size) for size in sizes.values())
    assert (offsets, total) == memory.assign_offsets(sizes, lifetimes)


def chain(sizes):
    """Each value is read by the next step alone, as in a network without branches."""
    return {f"v{n}": size for n, size in enumerate(sizes)}, {f"v{n}": (n, n + 1) for n in range(len(sizes))}


@settings(max_examples=200, deadline=None)
@given(st.sets(st.integers(1, 40), min_size=1, max_size=20), st.booleans())
def test_growing_or_shrinking_chain_needs_its_peak(blocks, falling):
    sizes, lifetimes = chain([ALIGNMENT * n for n in sorted(blocks, reverse=falling)])
    assert memory.assign_offsets(sizes, lifetimes)[1] == peak(sizes, lifetimes)


@pytest.mark.parametrize("size", [1, 128, 1000])
def test_chain_of_equal_buffers_needs_two(size):
    sizes, lifetimes = chain([size] * 9)
    assert memory.assign_offsets(sizes, lifetimes)[1] == aligned(size) + size


def test_residual_lives_across_its_branch():
    """The shortcut lives across a branch whose values come and go beside it."""
    sizes = {"x": 1024, "wide": 4096, "narrow": 512, "sum": 1024}
    lifetimes = {"x": (0, 3), "wide": (1, 2), "narrow": (2, 3), "sum": (3, 4)}
    assert memory.assign_offsets(sizes, lifetimes)[1] == 1024 + 4096 + 512


def test_no_buffers():
    assert memory.assign_offsets({}, {}) == ({}, 0)


def needs_of(name, machine, threads):
    """(optimised graph, shapes, buffers) of a network at 224 x 224."""
    graph = MODELS[name].graph()
    shapes = {**graph.parameters, **graph.buffers}
    tensors = {key: np.broadcast_to(np.float32(1), shape) for key, shape in shapes.items()}
    graph, tensors = passes.optimise(graph, tensors)
    values = ops.infer_shapes(graph, (1, 3, 224, 224), {key: tensor.shape for key, tensor in tensors.items()})
    return graph, values, memory.buffers(graph, values, machine, threads, True)


@pytest.mark.parametrize("threads", [1, 2])
def test_small_shared_memory_rests_before_reuse(threads):
    machine = replace(HOST, l2_bytes=1 << 20)
    graph, values, needs = needs_of("mobilenetv3_small_100", machine, threads)
    offsets = memory.lay_out(needs, threads).offsets
    ends = {name: offset + 4 * int(np.prod(values[name])) for name, offset in offsets.items()}
    written = {node.output: number for number, node in enumerate(graph.nodes)}
    read = {name: number for number, node in enumerate(graph.nodes) for name in node.inputs}
    tuning = machine.tuning
    soonest = min(
        written[other] - read[name]
        for name in offsets
        for other in offsets
        if ends[name] - offsets[name] <= tuning.reuse_delay_below * machine.l2_bytes
        and written[other] > read.get(name, len(written))
        and offsets[name] < ends[other]
        and offsets[other] < ends[name]
    )
    assert soonest == (1 if threads == 1 else 1 + tuning.reuse_delay)


@pytest.mark.parametrize("name", ["mobilenetv2_140", "mobilenetv3_small_100", "resnext50_32x4d", "vit_b_32"])
def test_arena_close_to_peak(name):
    *_, needs = needs_of(name, HOST, 2)
    sizes = {**needs.values, **{f"{output} workspace": size for output, size in needs.workspaces.items()}}
    sizes[memory.THREAD_WORKSPACES] = 2 * needs.thread_workspace_bytes
    most = peak(sizes, needs.lifetimes)
    assert most <= memory.lay_out(needs, 2).bytes <= 1.1 * most


def test_guard_bytes_lie_around_every_buffer():
    *_, needs = needs_of("mobilenetv3_small_100", HOST, 2)
    plain, guarded = memory.lay_out(needs, 2), memory.lay_out(needs, 2, guard=256)
    assert guarded.bytes > plain.bytes and guarded.offsets.keys() == plain.offsets.keys()
    assert min(guarded.offsets.values()) >= 256
