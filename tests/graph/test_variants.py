"""Graphs without a head and for other input channels, against timm's and torchvision's modules in float64."""

import numpy as np
import pytest
import torch

from nanoinfer.architectures import MODELS
from nanoinfer.graph import ops, variants
from nanoinfer.reports.torch_reference import import_torchvision


@pytest.mark.parametrize("name", MODELS)
def test_graph_without_head_gives_what_the_head_reads(name):
    whole, headless = (MODELS[name].graph(**more) for more in ({}, {"num_classes": 0}))
    node = variants.head(whole)
    assert variants.head(headless) is None
    assert variants.embedding(headless) == variants.embedding(whole) == headless.outputs[0]
    assert whole.parameters.keys() - headless.parameters.keys() == set(node.tensors.values())
    shapes = ops.infer_shapes(headless, (2, 3, *MODELS[name].preprocessing.crop))
    assert shapes[headless.outputs[0]] == (2, whole.parameters[node.tensors["weight"]][1])
    assert headless.modules[node.output] == headless.outputs[0] and headless.kinds[node.output] == "Identity"
    assert set(headless.modules.values()) <= set(shapes) and {value for _, value in headless.calls} <= set(shapes)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
@pytest.mark.parametrize("channels", [1, 4])
def test_headless_network_of_other_channels_equals_timms(name, channels):
    import_torchvision()
    import timm

    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=0, in_chans=channels).double().eval()
    graph = MODELS[name].graph(num_classes=0, in_chans=channels)
    tensors = {key: value.numpy() for key, value in module.state_dict().items() if value.ndim}
    assert {key: value.shape for key, value in tensors.items()} == {**graph.parameters, **graph.buffers}
    x = np.random.default_rng(0).standard_normal((2, channels, 64, 48))
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(ops.evaluate(graph, tensors, x)[graph.outputs[0]], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_graph_of_other_channels_differs_in_its_stem(name):
    grey, whole = MODELS[name].graph(in_chans=1), MODELS[name].graph()
    other = [key for key, shape in whole.parameters.items() if grey.parameters[key] != shape]
    assert other == variants.input_weights(whole) and grey.nodes == whole.nodes
    assert ops.infer_shapes(grey, (1, 1, *MODELS[name].preprocessing.crop))[grey.outputs[0]] == (
        1,
        MODELS[name].arguments["num_classes"],
    )


def test_input_weights_are_those_of_the_stem():
    for name, weight in (("resnet18", "conv1.weight"), ("vit_b_32", "conv_proj.weight")):
        assert variants.input_weights(MODELS[name].graph()) == [weight]
