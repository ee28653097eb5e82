"""Where windows lie: TensorFlow's padding, and what operators of windows compute, beside torch."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from nanoinfer.graph import Builder, Node, ops
from nanoinfer.graph.windows import SAME, blur_weights, edges, padding_before, window_shape
from nanoinfer.reports.torch_reference import import_torchvision


@pytest.mark.parametrize("size", range(1, 12))
def test_same_padding_is_that_of_timm(size):
    import_torchvision()
    from timm.layers.padding import get_same_padding

    for window in (1, 2, 3, 5, 7):
        for stride in (1, 2, 3):
            before, behind = edges(size, window, stride, SAME)
            assert before + behind == get_same_padding(size, window, stride, 1)
            assert behind - before in (0, 1)
            assert window_shape((1, 1, size, size), window, stride, SAME)[2] == -(-size // stride)
    assert edges(size, 3, 2, 1) == (1, 1)


def test_same_padding_of_each_side():
    attributes = {"stride": 2, "padding": SAME}
    assert padding_before(attributes, (8, 7), 3) == (0, 1)
    assert padding_before(attributes, (8, 7), 5) == (1, 2)
    assert padding_before({"stride": 2, "padding": 3}, (8, 7), 7) == (3, 3)


def test_same_padding_that_is_the_same_at_every_size_is_a_number():
    net = Builder(padding=SAME, eps=1e-3)
    x = net.conv2d(net.conv2d(net.input, "a", 4, 3), "b", 4, 3, stride=2)
    net.batch_norm(net.conv2d(x, "c", 4, 3, padding=0), "n")
    assert [node.attributes.get("padding") for node in net.nodes] == [1, SAME, 0, None]
    assert net.nodes[-1].attributes["eps"] == 1e-3


@pytest.mark.parametrize("size", [(6, 6), (7, 5), (2, 2), (3, 8)])
def test_pools_are_those_of_timm_and_torch(size):
    import_torchvision()
    from timm.layers import BlurPool2d

    x = np.random.default_rng(0).standard_normal((2, 4, *size))
    inputs = torch.from_numpy(x)
    attributes = {"window": 3, "stride": 2}
    blurred = BlurPool2d(4, dtype=torch.float64)(inputs).numpy()
    np.testing.assert_allclose(ops.OPS["blur_pool2d"].reference([x], {}, attributes), blurred, atol=1e-12)
    assert ops.OPS["blur_pool2d"].shape([x.shape], {}, attributes) == blurred.shape
    means = functional.avg_pool2d(inputs, 2).numpy()
    attributes = {"window": 2, "stride": 2}
    np.testing.assert_allclose(ops.OPS["average_pool2d"].reference([x], {}, attributes), means, atol=1e-12)
    assert ops.OPS["average_pool2d"].shape([x.shape], {}, attributes) == means.shape
    most = functional.adaptive_max_pool2d(inputs, 1).numpy()
    np.testing.assert_array_equal(ops.OPS["global_max_pool"].reference([x], {}, {}), most)
    assert blur_weights(5).sum() == 1


def test_an_image_too_small_to_reflect_is_refused():
    net = Builder(4)
    graph = net.finish(net.blur_pool2d(net.input, "blur", stride=2), net.input)
    with pytest.raises(ValueError, match="blur: an image of 1 x 5 has too few pixels to reflect; it takes 2 x 2"):
        ops.infer_shapes(graph, (1, 4, 1, 5))
    node = Node("average_pool2d", ("input",), "y", {}, {"window": 2, "stride": 2})
    with pytest.raises(ValueError, match="does not fit into 1 x 1"):
        ops.OPS[node.op].shape([(1, 4, 1, 1)], {}, node.attributes)
