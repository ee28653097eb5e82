"""Graphs made by hand: `infer_shapes` refuses shapes that do not fit, before a kernel reads beyond a buffer's end."""

from dataclasses import replace

import pytest

from nanoinfer.graph import Builder, Graph, Node, Value, ops

IMAGE = (1, 8, 6, 6)
TOKENS = (1, 5, 8)


def graph_of(node, others=(), shapes=None):
    """The graph of `node` behind `others`, with tensors of the given shapes."""
    return Graph((*others, node), (node.output,), shapes or {}, {}, {}, node.output).check()


def narrow(channels, inputs=("input",), **attributes):
    """A pointwise convolution "narrow" with `channels` outputs, and the shape of its weight."""
    options = {"stride": 1, "padding": 0, "groups": 1, **attributes}
    return Node("conv2d", inputs, "narrow", {"weight": "narrow.weight"}, options), {
        "narrow.weight": (channels, 8, 1, 1)
    }


def conv2d(inputs, **attributes):
    """A pointwise convolution "y" with 8 outputs, and the shape of its weight."""
    node, _ = narrow(8, inputs, **attributes)
    return replace(node, output="y", tensors={"weight": "y.weight"}), {"y.weight": (8, 8, 1, 1)}


def linear(inputs, features=8, output="y"):
    tensors = {"weight": f"{output}.weight", "bias": f"{output}.bias"}
    shapes = {f"{output}.weight": (features, 8), f"{output}.bias": (features,)}
    return Node("linear", inputs, output, tensors), shapes


def refused(graph, shape, words):
    with pytest.raises(ValueError, match=f"^{graph.nodes[-1].output}: .*{words}"):
        ops.infer_shapes(graph, shape)


@pytest.mark.parametrize("channels", [4, 16])
@pytest.mark.parametrize("inputs", [("input", "narrow"), ("narrow", "input")])
def test_add_refuses_another_shape(channels, inputs):
    other, shapes = narrow(channels)
    refused(graph_of(Node("add", inputs, "y"), [other], shapes), IMAGE, "shapes differ")


def test_add_refuses_another_size():
    other, shapes = narrow(8, stride=2)
    refused(graph_of(Node("add", ("input", "narrow"), "y"), [other], shapes), IMAGE, "shapes differ")


@pytest.mark.parametrize("channels", [4, 16])
def test_scale_refuses_a_gate_of_other_channels(channels):
    pool = Node("global_average_pool", ("input",), "pool")
    gate, shapes = narrow(channels, ("pool",))
    refused(graph_of(Node("scale", ("input", "narrow"), "y"), [pool, gate], shapes), IMAGE, "cannot scale")


def test_scale_refuses_a_gate_with_pixels():
    refused(graph_of(Node("scale", ("input", "input"), "y")), IMAGE, "cannot scale")


@pytest.mark.parametrize("channels", [4, 16])
def test_conv2d_refuses_a_residual_of_other_channels(channels):
    other, shapes = narrow(channels)
    node, own = conv2d(("input", "narrow"))
    refused(graph_of(node, [other], {**shapes, **own}), IMAGE, "shapes differ")


def test_conv2d_refuses_a_residual_of_another_size():
    node, shapes = conv2d(("input", "input"), stride=2)
    refused(graph_of(node, shapes=shapes), IMAGE, "shapes differ")


@pytest.mark.parametrize("channels", [4, 16])
def test_linear_refuses_a_residual_of_other_features(channels):
    other, shapes = linear(("input",), channels, "other")
    node, own = linear(("input", "other"))
    refused(graph_of(node, [other], {**shapes, **own}), TOKENS, "shapes differ")


def test_linear_refuses_a_residual_of_one_token():
    token = Node("select_token", ("input",), "token", attributes={"index": 0})
    node, shapes = linear(("input", "token"))
    refused(graph_of(node, [token], shapes), TOKENS, "shapes differ")


@pytest.mark.parametrize("channels", [4, 16])
def test_gated_conv2d_refuses_a_gate_of_other_channels(channels):
    pool = Node("global_average_pool", ("input",), "pool")
    gate, shapes = narrow(channels, ("pool",))
    node, own = conv2d(("input", "narrow"), gated=True)
    refused(graph_of(node, [pool, gate], {**shapes, **own}), IMAGE, "cannot scale")


def test_gated_conv2d_refuses_a_residual_of_other_channels():
    pool = Node("global_average_pool", ("input",), "pool")
    other, shapes = narrow(4)
    node, own = conv2d(("input", "narrow", "pool"), gated=True)
    refused(graph_of(node, [pool, other], {**shapes, **own}), IMAGE, "shapes differ")


def test_gated_conv2d_refuses_to_have_no_gate():
    node, shapes = conv2d(("input",), gated=True)
    refused(graph_of(node, shapes=shapes), IMAGE, "gate")


# Tensors


@pytest.mark.parametrize("size", [4, 16])
def test_products_refuse_a_bias_of_another_size(size):
    node, shapes = conv2d(("input",))
    node = replace(node, tensors={**node.tensors, "bias": "bias"})
    refused(graph_of(node, shapes={**shapes, "bias": (size,)}), IMAGE, "bias of shape")
    node, shapes = linear(("input",))
    refused(graph_of(node, shapes={**shapes, "y.bias": (size,)}), TOKENS, "bias of shape")


def test_conv2d_refuses_groups_that_do_not_divide_its_channels():
    node, _ = conv2d(("input",), groups=2)
    refused(graph_of(node, shapes={"y.weight": (7, 4, 1, 1)}), IMAGE, "2 groups")
    refused(graph_of(node, shapes={"y.weight": (8, 8, 1, 1)}), IMAGE, "16 channels expected")


@pytest.mark.parametrize("op, shape", [("batch_norm", IMAGE), ("layer_norm", TOKENS)])
@pytest.mark.parametrize("size", [4, 16])
def test_norms_refuse_tensors_of_another_size(op, shape, size):
    node = Node(op, ("input",), "y", {"weight": "w", "bias": "b"}, {"eps": 1e-5})
    refused(graph_of(node, shapes={"w": (8,), "b": (size,)}), shape, "bias of shape")


def test_tokens_refuse_embeddings_of_other_features():
    node = Node("tokens", ("input",), "y", {"class_token": "c", "position": "p"})
    for token, position in ((4, 8), (8, 16)):
        shapes = {"c": (1, 1, token), "p": (1, 37, position)}
        refused(graph_of(node, shapes=shapes), IMAGE, "of shape")


def test_attention_refuses_features_that_heads_do_not_divide():
    node = Node("attention", ("input",), "y", attributes={"heads": 3})
    assert ops.infer_shapes(graph_of(node), (1, 5, 9))["y"] == (1, 5, 3)
    refused(graph_of(node), (1, 5, 12), "heads")
    refused(graph_of(node), (1, 5, 8), "heads")


# The builder knows channels only


def test_builder_refuses_a_residual_or_gate_of_other_channels():
    net = Builder(8)
    narrow = net.conv2d(net.input, "narrow", 4, 1)
    with pytest.raises(ValueError, match="r: a residual of 4 channels cannot be added to 8"):
        net.residual(net.input, narrow, "r")
    with pytest.raises(ValueError, match="s: a gate of 4 channels cannot scale 8"):
        net.scale(net.input, net.global_average_pool(narrow, "pool"), "s")


def test_a_value_whose_recorded_channels_are_wrong_is_refused_by_its_shape():
    net = Builder(8)
    narrow = net.conv2d(net.input, "narrow", 4, 1)
    y = net.residual(net.input, Value(narrow.name, 8), "r")
    refused(net.finish(y, y), IMAGE, "shapes differ")


@pytest.mark.parametrize("add", [lambda net, x: net.linear(x, "l", 4), lambda net, x: net.layer_norm(x, "n")])
def test_operators_on_tokens_refuse_images(add):
    """An image whose width happens to be the number of features has its channels elsewhere."""
    net = Builder(16)
    y = add(net, net.input)
    with pytest.raises(ValueError, match="tokens"):
        ops.infer_shapes(net.finish(y, y), (1, 16, 16, 16))
