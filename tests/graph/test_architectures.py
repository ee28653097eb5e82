"""Every architecture against torch's own: tensors, and in float64 the value that each module returns."""

import json
import math

import numpy as np
import pytest
import torch

from bench import references
from nanoinfer.architectures import MODELS, list_models
from nanoinfer.graph import ops
from tests.helpers import ARTICLE_WIDTHS, TABLES
from tests.networks import hooked

PUBLISHED = json.loads((TABLES / "parameters.json").read_text())
WIDTH_MULTS = (0.25, 0.5, 1.0, 1.4)

FAMILIES = [  # (name, arguments, height and width): a network of every family, over the arguments that change it
    ("mobilenetv2_140", {}, (64, 96)),
    ("mobilenetv3_small_100", {}, (64, 96)),
    ("resnext50_32x4d", {}, (64, 96)),
    ("vit_b_32", {"image_size": 64}, (64, 64)),
    *(("mobilenetv2_article", {"width": width}, (96, 64)) for width in ARTICLE_WIDTHS),
    *(("mobilenet_v2", {"width_mult": width}, (65, 97)) for width in WIDTH_MULTS),
    ("mobilenetv2_140", {"num_classes": 7}, (32, 32)),
    ("mobilenetv3_small_100", {"num_classes": 7}, (33, 47)),
]
MEMBERS = [
    ("digits", {}, (96, 96)),
    ("mobilenetv2_035", {}, (64, 64)),
    ("mobilenetv2_050", {}, (64, 64)),
    ("mobilenetv2_075", {}, (64, 64)),
    ("mobilenetv2_100", {}, (64, 64)),
    ("mobilenetv2_110d", {}, (64, 64)),
    ("mobilenetv2_120d", {}, (64, 64)),
    ("mobilenetv3_small_050", {}, (64, 64)),
    ("mobilenetv3_small_075", {}, (64, 64)),
    ("mobilenetv3_large_075", {}, (64, 64)),
    ("mobilenetv3_large_100", {}, (64, 64)),
    ("resnet18", {}, (33, 64)),
    ("resnet50", {}, (32, 32)),
    ("vit_b_16", {"image_size": 32}, (32, 32)),
    ("tf_efficientnet_lite0", {}, (64, 47)),
    ("tf_mobilenetv3_small_075", {}, (64, 33)),
    ("tf_mobilenetv3_small_minimal_100", {}, (64, 66)),
    ("resnetaa50", {}, (32, 64)),
    ("resnetblur18", {}, (33, 64)),
    ("mobilenetv2_050", {"pad_type": "same", "bn_eps": 1e-3, "global_pool": "max"}, (64, 50)),
    ("mobilenetv3_small_050", {"global_pool": "max"}, (64, 96)),
]
LARGE_MEMBERS = [
    *((name, {}, (64, 64)) for name in ("resnet34", "resnet101", "resnet152", "resnext101_32x8d", "resnext101_64x4d")),
    *((name, {}, (64, 64)) for name in ("wide_resnet50_2", "wide_resnet101_2")),
    ("vit_l_16", {"image_size": 48}, (48, 48)),
    ("vit_l_32", {"image_size": 96}, (96, 96)),
    ("vit_b_32", {}, (224, 224)),
    *((f"efficientnet_lite{number}", {}, (64, 64)) for number in range(5)),
    *((f"tf_efficientnet_lite{number}", {}, (64, 65)) for number in (1, 2, 3, 4)),
    *(
        (f"tf_mobilenetv3_{size}", {}, (64, 49))
        for size in ("small_100", "large_075", "large_100", "large_minimal_100")
    ),
    ("resnetblur50", {}, (64, 64)),
]
ALL = [*FAMILIES, *MEMBERS, *LARGE_MEMBERS]


def identity(case):
    name, arguments, _ = case
    return "-".join([name, *(f"{key}={value}" for key, value in arguments.items())])


def torch_model(name, arguments):
    """The library's module of that name in eval mode, with the library's own initial values."""
    if name == "digits":
        return references.reference("mobilenetv2_article", **{"width": 0.35, "num_classes": 10, **arguments})
    return references.reference(name, **arguments)


def assert_close(actual, expected, message):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9 * scale, err_msg=message)


def check_evaluation(name, arguments, size):
    """The graph, evaluated in NumPy in float64, against what the torch module and all its submodules return."""
    graph = MODELS[name].graph(**arguments)
    module = references.randomise(torch_model(name, arguments), seed=5)
    tensors = references.state_arrays(module)
    x = np.random.default_rng(6).standard_normal((2, 3, *size))
    x[1] *= 20  # beyond the bounds of relu6, hard_sigmoid and hard_swish

    values = ops.evaluate(graph, tensors, x)
    seen, logits = hooked(module.double(), x)

    assert set(graph.modules) == set(seen)
    for part, expected in seen.items():
        assert_close(values[graph.modules[part]], expected, part)
    assert_close(values[graph.outputs[0]], logits, "logits")
    shapes = ops.infer_shapes(graph, x.shape)
    assert shapes == {value: array.shape for value, array in values.items()}
    if hasattr(module, "forward_features"):
        with torch.no_grad():
            assert_close(values[graph.features], module.forward_features(torch.from_numpy(x)).numpy(), "features")


@pytest.mark.parametrize("case", [*FAMILIES, *MEMBERS], ids=identity)
def test_every_module_matches_torch_in_float64(case):
    check_evaluation(*case)


@pytest.mark.slow
@pytest.mark.parametrize("case", LARGE_MEMBERS, ids=identity)
def test_every_module_of_large_members_matches_torch_in_float64(case):
    check_evaluation(*case)


@pytest.mark.parametrize("case", ALL, ids=identity)
def test_tensor_names_shapes_and_order_match_torch(case):
    name, arguments, _ = case
    graph = MODELS[name].graph(**arguments)
    with torch.device("meta"):  # shapes without memory
        module = torch_model(name, arguments)

    parameters = [(key, tuple(value.shape)) for key, value in module.named_parameters()]
    stored = module.state_dict()  # the filters of blurs are buffers and not stored
    buffers = [(key, tuple(value.shape)) for key, value in module.named_buffers() if value.ndim and key in stored]
    assert list(graph.parameters.items()) == parameters
    assert list(graph.buffers.items()) == buffers
    used = {tensor for node in graph.nodes for tensor in node.tensors.values()}
    assert used == {*graph.parameters, *graph.buffers}


@pytest.mark.parametrize("name", PUBLISHED["parameters"])
def test_parameters_match_the_published_tables(name):
    graph = MODELS[name].graph()
    assert [[key, list(shape)] for key, shape in graph.parameters.items()] == PUBLISHED["parameters"][name]


def test_parameters_of_every_layer_match_the_walkthrough():
    graph = MODELS["mobilenetv2_article"].graph()
    layers = {}
    for name, shape in graph.parameters.items():
        layer = name.rpartition(".")[0]
        layers[layer] = layers.get(layer, 0) + math.prod(shape)
    assert list(layers.values()) == [count for _, count in PUBLISHED["layers"]["mobilenetv2_article"]]


@pytest.mark.parametrize("name", PUBLISHED["totals"])
def test_parameter_counts_match_the_published_totals(name):
    assert sum(map(math.prod, MODELS[name].graph().parameters.values())) == PUBLISHED["totals"][name]


@pytest.mark.parametrize("name", MODELS)
def test_registered_model_is_complete(name):
    model = MODELS[name]
    assert model.name == name
    assert "num_classes" in model.arguments
    assert model.description
    assert model.preprocessing.resize >= max(model.preprocessing.crop)
    for arguments in ({}, {"num_classes": 5}):
        graph = model.graph(**arguments)
        shapes = ops.infer_shapes(graph, (3, 3, *model.preprocessing.crop))
        assert shapes[graph.outputs[0]] == (3, {**model.arguments, **arguments}["num_classes"])


def test_every_model_is_compared_with_torch():
    assert {name for name, _, _ in ALL} == set(MODELS)


@pytest.mark.parametrize(
    "name, shape",
    [
        ("mobilenetv2_140", (1, 1792, 7, 7)),
        ("mobilenetv3_small_100", (1, 576, 7, 7)),
        ("resnext50_32x4d", (1, 2048, 7, 7)),
        ("vit_b_32", (1, 50, 768)),
        ("mobilenet_v2", (1, 1280, 7, 7)),
        ("mobilenetv2_article", (1, 1280, 7, 7)),
    ],
)
def test_feature_shape(name, shape):
    graph = MODELS[name].graph()
    assert ops.infer_shapes(graph, (1, 3, 224, 224))[graph.features] == shape


def test_list_architectures_by_pattern():
    assert list_models() == list(MODELS)
    assert list_models("vit_?_32") == ["vit_b_32", "vit_l_32"]
    assert list_models("no such model") == []


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("vit_b_32", {"width": 2}, "vit_b_32 has no argument width; it has num_classes, image_size"),
        ("vit_b_32", {"image_size": 225}, "image_size=225 is not a multiple of the patch size 32"),
        ("vit_b_32", {"num_heads": 7}, "hidden_dim=768 is not a multiple of num_heads=7"),
        ("mobilenetv2_article", {"width": 0.01}, "first_conv.conv.weight would have shape"),
        ("resnet50", {"num_classes": -1}, "fc.weight would have shape"),
        ("resnet50", {"in_chans": 0}, "in_chans=0: an input has at least one channel"),
        ("resnet50", {"layers": (1, 1)}, "layers=.* blocks for each of 4 stages"),
        ("mobilenetv2_100", {"pad_type": "valid"}, "pad_type='valid'; it is '' or 'same'"),
        ("mobilenetv3_large_100", {"global_pool": "avgmax"}, "global_pool='avgmax'; it is 'avg' or 'max'"),
    ],
)
def test_wrong_architecture_arguments(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        MODELS[name].graph(**arguments)


@pytest.mark.parametrize("size", [(256, 256), (32, 1568), (192, 224)])
def test_vit_shape_inference_refuses_another_image_size(size):
    with pytest.raises(ValueError, match="do not fit 7 x 7 position embeddings"):
        ops.infer_shapes(MODELS["vit_b_32"].graph(), (1, 3, *size))
