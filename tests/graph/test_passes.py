"""Graph passes: they keep what a network computes, and shorten it."""

import numpy as np
import pytest

import nanoinfer
from nanoinfer.graph import Builder, ops, passes


def test_batch_norms_fold_in_float64_and_round_once(small_network):
    graph, tensors = small_network.model.graph, small_network.model.tensors
    folded, values = passes.fold_batch_norm(graph, tensors)
    producers, folded_producers, count = graph.producers(), folded.producers(), 0
    for node in graph.nodes:
        if node.op != "batch_norm":
            continue
        count += 1
        conv, merged = producers[node.inputs[0]], folded_producers[node.output]
        assert merged.op == "conv2d" and merged.inputs == conv.inputs
        norm = {role: tensors[name].astype(np.longdouble) for role, name in node.tensors.items()}
        scale = norm["weight"] / np.sqrt(norm["running_var"] + np.longdouble(node.attributes["eps"]))
        weight = tensors[conv.tensors["weight"]] * scale[:, None, None, None]
        bias = norm["bias"] - norm["running_mean"] * scale
        for role, exact in (("weight", weight), ("bias", bias)):
            rounded = values[merged.tensors[role]]
            assert rounded.dtype == np.float32
            half = np.spacing(np.abs(rounded)).astype(np.longdouble) / 2
            # float64 may miss the exact value by a little, and by more if a difference cancels.
            slack = 1e-15 * (np.abs(exact) if role == "weight" else np.abs(norm["bias"]) + np.abs(exact - norm["bias"]))
            assert (np.abs(rounded - exact) <= half + slack).all(), merged.output
    assert (count > 0) == (small_network.name != "vit_b_32")


def test_every_prefix_of_the_passes_computes_the_same_in_fewer_nodes(small_network):
    x = small_network.input(1).astype(np.float64)
    graph, tensors = small_network.model.graph, small_network.model.tensors
    expected = ops.evaluate(graph, tensors, x)[graph.outputs[0]]
    node_counts, copies = [], ("select_token", "max_pool2d")
    for count in range(len(passes.PASSES) + 1):
        shorter, values = passes.optimise(graph, tensors, count)
        node_counts.append(sum(node.op not in copies for node in shorter.nodes))
        y = ops.evaluate(shorter, values, x)[graph.outputs[0]]
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert node_counts == sorted(node_counts, reverse=True) and node_counts[-1] < node_counts[0]
    assert "batch_norm" not in {node.op for node in shorter.nodes}
    assert graph is small_network.model.graph and set(tensors) == {*graph.parameters, *graph.buffers}


@pytest.mark.parametrize(
    "widths, tapped, left",
    [((16, 16, 72), False, 1), ((8, 8, 8, 8), False, 1), ((16, 4, 72), False, 2), ((16, 16, 72), True, 2)],
    ids=["narrow", "three", "bottleneck", "tapped"],
)
def test_pointwise_convolutions_in_a_row_merge_if_that_is_less_work(widths, tapped, left):
    """`left` convolutions are left of a chain over `widths` channels, whose first one may be an output too."""
    builder = Builder(widths[0])
    values = [builder.input]
    for number, width in enumerate(widths[1:]):
        values.append(builder.conv2d(values[-1], f"c{number}", width, 1, bias=number == 0))
    graph = builder.finish(values[-1], values[-1])
    graph = graph.with_outputs([graph.outputs[0], values[1].name]) if tapped else graph
    generator = np.random.default_rng(0)
    tensors = {name: generator.standard_normal(size, np.float32) for name, size in graph.parameters.items()}
    merged, values = passes.merge_pointwise(graph, tensors)
    assert len(merged.nodes) == left
    x = generator.standard_normal((2, widths[0], 3, 5))
    expected = ops.evaluate(graph, tensors, x)[graph.outputs[0]]
    y = ops.evaluate(merged, values, x)[graph.outputs[0]]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    "channels, groups, window, gathered", [(32, 1, 1, 2), (16, 1, 1, 0), (32, 2, 1, 0), (32, 1, 3, 0)]
)
def test_strided_pixels_are_gathered_for_wide_pointwise_convolutions(channels, groups, window, gathered):
    """From 32 channels on, here: two strided convolutions, each with a norm and a pointwise one behind it."""
    builder = Builder(32)
    x = builder.input
    for number, stride in enumerate((2, 3)):
        narrow = builder.conv2d(x, f"n{number}", channels, window, stride=stride, groups=groups, bias=True)
        x = builder.conv2d(builder.batch_norm(narrow, f"b{number}"), f"c{number}", 32, 1)
    graph = builder.finish(x, x)
    generator = np.random.default_rng(0)
    shapes = {**graph.parameters, **graph.buffers}
    tensors = {name: generator.uniform(0.5, 1, size).astype(np.float32) for name, size in shapes.items()}
    found, values = passes.gather_pixels(graph, tensors, wide=32)
    pools = [node for node in found.nodes if node.op == "max_pool2d"]
    assert [node.attributes["stride"] for node in pools] == [2, 3][:gathered]
    assert values is tensors and len(found.nodes) == len(graph.nodes) + gathered
    strides = [node.attributes["stride"] for node in found.nodes if node.op == "conv2d"]
    assert strides == ([1, 1, 1, 1] if gathered else [2, 1, 3, 1])
    x = generator.standard_normal((2, 32, 13, 8))
    outputs = [ops.evaluate(each, tensors, x)[graph.outputs[0]] for each in (graph, found)]
    np.testing.assert_array_equal(*outputs)


def test_two_convolutions_share_the_pixels_that_are_gathered():
    builder = Builder(8)
    a, b = (builder.conv2d(builder.input, name, 8, 1, stride=2) for name in "ab")
    y = builder.residual(a, b, "r")
    graph = builder.finish(y, y)
    tensors = {name: np.ones(size, np.float32) for name, size in graph.parameters.items()}
    found, _ = passes.gather_pixels(graph, tensors)
    assert [node.op for node in found.nodes] == ["max_pool2d", "conv2d", "conv2d", "add"]


def test_select_token_moves_before_mlp():
    """The last block computes its MLP for the class token alone, unless all tokens are an output."""
    model = nanoinfer.create_model("vit_b_32", "random:1")
    for outputs, expected in ((model.graph.outputs, 7), ((*model.graph.outputs, model.graph.features), 1)):
        graph, tensors = passes.optimise(model.graph.with_outputs(outputs), model.tensors)
        shapes = ops.infer_shapes(graph, (2, 3, 224, 224), {name: tensor.shape for name, tensor in tensors.items()})
        single = [node.op for node in graph.nodes if len(shapes[node.output]) == 2 and node.op != "select_token"]
        assert len(single) == expected and single.count("linear") == (expected + 1) // 2, single


def test_select_token_moves_before_a_value_added_to_itself():
    builder = Builder(16)
    x = builder.linear(builder.input, "c", 16)
    y = builder.select_token(builder.residual(x, x, "r"), 1, "t")
    graph = builder.finish(y, y)
    tensors = {name: np.ones(size, np.float32) for name, size in graph.parameters.items()}
    moved, _ = passes.select_token_early(graph, tensors)
    assert [node.op for node in moved.nodes] == ["select_token", "linear", "add"]
    x = np.random.default_rng(0).standard_normal((2, 3, 16))
    outputs = [ops.evaluate(each, tensors, x)[graph.outputs[0]] for each in (graph, moved)]
    np.testing.assert_array_equal(*outputs)


def test_hard_swish_scale_moves_into_the_weights(small_network):
    graph, _ = passes.optimise(small_network.model.graph, small_network.model.tensors)
    activations = [node.attributes.get("activation") for node in graph.nodes]
    is_mobilenetv3 = small_network.name.startswith("mobilenetv3")
    assert "hard_swish" not in activations and ("scaled_hard_swish" in activations) == is_mobilenetv3
