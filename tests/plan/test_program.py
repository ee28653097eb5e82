"""Plans and programs: shards and micro-batches, rows that have room, views, and the costs of steps."""

from typing import NamedTuple

import numpy as np
import pytest
from nanoinfer.kernels.packing import GateWeights
from nanoinfer.kernels.program import WORDS

from nanoinfer import create_model
from nanoinfer.lowering import LOWERINGS
from nanoinfer.plan.program import encode_row
from nanoinfer.sections import Section
from tests.guarded import HOST, network, operators, run, tuned


@pytest.mark.parametrize("threads", [1, 2])
def test_network_of_views_has_no_steps(threads):
    case = network((2, 8, 1, 1), lambda builder, x: builder.flatten(x, "f"))
    np.testing.assert_array_equal(run(case, threads=threads), case.x[..., 0, 0])


def test_instruction_without_room_in_a_row_is_refused():
    wide = NamedTuple("Wide", [(f"f{n}", int) for n in range(WORDS - 1)])
    with pytest.raises(ValueError, match=f"Wide has {WORDS - 1} words; a row has room for {WORDS - 2}"):
        encode_row(np.zeros(WORDS, np.int64), 1, wide(*range(WORDS - 1)), True)
    fits = NamedTuple("Fits", [(f"f{n}", int) for n in range(WORDS - 2)])
    row = np.zeros(WORDS, np.int64)
    encode_row(row, 7, fits(*range(WORDS - 2)), True)
    assert row.tolist() == [7, *range(WORDS - 2), 1]


def plan_of(model, batch):
    return model._sections.plan((batch, 3, 64, 64), Section(model.graph.input, model.graph.outputs))


def test_batch_that_divides_is_cut_into_shards():
    model = create_model("mobilenetv3_small_100", "random:1", threads=2)
    assert [plan_of(model, batch).shards for batch in (1, 2, 3, 8)] == [1, 2, 1, 2]


def test_micro_batch_keeps_activations_in_l3():
    """A batch runs in equal parts of whole images for each thread; at least one image, however small the cache."""
    model = create_model("mobilenetv3_small_100", "random:1", threads=2)
    for share, expected in ((1e9, 8), (1e-9, 2)):
        assert plan_of(model.planned_for(tuned(HOST, activation_share=share)), 8).micro_batch == expected
    tight = plan_of(model, 8).memory.activation_bytes // 2  # of four images a shard: room for two
    share = (tight + 2 * plan_of(model, 8).memory.thread_workspace_bytes) * 2 / HOST.l3_bytes
    assert plan_of(model.planned_for(tuned(HOST, activation_share=share)), 8).micro_batch == 4


@pytest.mark.parametrize("name", ["mobilenetv2_140", "mobilenetv3_small_100", "resnext50_32x4d", "vit_b_32"])
def test_steps_cost_what_their_operators_do(name):
    """The steps of an operator share its cost, but for a step that scales weights or inputs by gates first."""
    model = create_model(name, "random:1", threads=2)
    program = model.program((1, 3, 224, 224))
    section = Section(model.graph.input, model.graph.outputs)
    plan, (_, tensors) = model._sections.plan((1, 3, 224, 224), section), model._sections.optimised(section)
    context = type("Costs", (), dict(shapes=plan.shapes, machine=plan.machine, tensors=tensors))()
    context.tensor = lambda node, role: tensors[node.tensors[role]]
    for node in plan.graph.nodes:
        steps = [step for step in program.steps if step.node.output == node.output]
        if steps:
            before = len(steps) > 1 and (isinstance(steps[0].spec, GateWeights) or node.attributes.get("gated"))
            own = [s for s in steps if not (before and (isinstance(s.spec, GateWeights) or s is steps[0]))]
            assert sum(step.flops for step in own) == LOWERINGS[node.op].flops(node, context), node.output


def test_every_operator_says_what_it_costs():
    assert all(LOWERINGS[name].flops for name in operators())
