"""What a message says of a checkpoint that does not fit, and how much of it."""

import numpy as np
import pytest
import torch

import nanoinfer
from bench.references import reference, state_arrays
from nanoinfer.architectures import MODELS
from nanoinfer.architectures.others import other_title
from nanoinfer.cli import main
from nanoinfer.diagnosis import diagnosis
from nanoinfer.errors import InputError
from nanoinfer.reports.torch_reference import import_torchvision
from tests.helpers import DIGITS_WEIGHTS, refused
from tests.pretrained.other_names import transformers_vit

TIMM = {
    "efficientnet_b0": "EfficientNet-B0 of timm",
    "efficientnet_b1": "EfficientNet-B1 of timm",
    "tf_efficientnet_b4": "EfficientNet-B4 of timm",
    "convnext_tiny": "timm's ConvNeXt",
    "swin_tiny_patch4_window7_224": "timm's Swin",
    "vit_base_patch16_224": "timm's vision transformer",
    "deit_base_distilled_patch16_224": "timm's distilled DeiT",
    "vit_small_patch14_dinov2": "DINOv2",
    "mobilenetv4_conv_small": "a network of timm's EfficientNet kind",
    "resnet50d": "a ResNet with a deep stem",
    "seresnet50": "a SENet",
    "resnet50_gn": "a ResNet without running means",
    "resnet26": "a ResNet of another size",
    "regnety_008": "timm's RegNet",
}
TORCHVISION = {
    "efficientnet_b0": "EfficientNet-B0 of torchvision",
    "efficientnet_v2_s": "torchvision's EfficientNet",
    "convnext_tiny": "torchvision's ConvNeXt",
    "mobilenet_v3_small": "torchvision's MobileNetV3",
    "vgg16": "VGG",
    "densenet121": "DenseNet",
    "squeezenet1_0": "torchvision's SqueezeNet",
    "shufflenet_v2_x1_0": "ShuffleNet",
    "vit_h_14": "a vision transformer of torchvision of another size",
}


def shapes_of(module):
    state = module.state_dict()
    return {name: tuple(value.shape) for name, value in state.items() if not name.endswith("num_batches_tracked")}


def graph_shapes(name, **arguments):
    graph = MODELS[name].graph(**arguments)
    return {**graph.parameters, **graph.buffers}


def said(name, shapes, **arguments):
    return diagnosis(MODELS[name], MODELS[name].graph(**arguments), shapes, shapes)


@pytest.mark.parametrize("name", TIMM)
def test_networks_of_timm_are_named(name):
    models = import_torchvision() and __import__("timm")
    with torch.device("meta"):
        module = models.create_model(name)
    assert f"holds weights of {TIMM[name]}" in said("mobilenetv2_140", shapes_of(module))


@pytest.mark.parametrize("name", TORCHVISION)
def test_networks_of_torchvision_are_named(name):
    with torch.device("meta"):
        module = getattr(import_torchvision().models, name)(weights=None)
    sentence = said("mobilenetv2_140", shapes_of(module))
    assert f"holds weights of {TORCHVISION[name]}" in sentence and "'nanoinfer models' lists them" in sentence


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("mobilenetv2_140", "digits")])
def test_file_of_another_of_our_networks_is_named(name):
    sentence = said("mobilenetv2_140", graph_shapes(name, num_classes=7))
    assert sentence.startswith("holds the weights of ") and "not of mobilenetv2_140; use -m " in sentence
    assert name in sentence.partition("use -m ")[2]


def test_sizes_that_are_the_callers_choice():
    resnet, vit = graph_shapes("resnet18"), graph_shapes("vit_b_32", image_size=96)
    assert "has a head of 1000 classes, not of 10: leave num_classes out" in said("resnet18", resnet, num_classes=10)
    assert "takes 3 channels, not 1: leave in_chans out" in said("resnet18", resnet, in_chans=1)
    assert "is for images of another size" in said("vit_b_32", vit)
    headless = {name: shape for name, shape in resnet.items() if not name.startswith("fc.")}
    assert "has no head" in said("resnet18", headless, num_classes=10)
    wide = graph_shapes("mobilenetv2_article", width=0.5)
    assert said("mobilenetv2_article", wide).endswith("but other sizes; give its width and num_classes")
    assert "in other sizes, not those of resnet18" in said("resnet18", wide)
    assert "with its default arguments" in said("mobilenetv2_100", graph_shapes("mobilenetv2_100"), width=0.5)
    assert said("resnet18", {"a": (1,)}) is None
    assert other_title({"a": (1,)}, kin=True) is None


def test_nearly_our_own_file_is_no_other_network():
    shapes = graph_shapes("resnet18")
    del shapes["layer4.1.conv2.weight"]
    assert said("resnet18", shapes) is None
    assert "holds weights of a ResNet of another size" in said("mobilenetv2_140", shapes)


def test_names_of_another_library_are_told_with_the_network():
    small = dict(image_size=32, num_layers=12, num_classes=5)
    state = {name: np.zeros(shape, np.float32) for name, shape in graph_shapes("vit_b_32", **small).items()}
    with refused("holds the weights of vit_b_32, under the names of HF transformers' ViT", one_line=False):
        nanoinfer.create_model("resnet18", transformers_vit(state))


def test_ten_lines_are_shown_and_all_of_them_when_asked_for(capsys, tmp_path):
    with refused("use -m digits", one_line=False) as caught:
        nanoinfer.create_model("mobilenetv3_small_100", DIGITS_WEIGHTS)
    lines, full = str(caught.value).splitlines(), caught.value.full.splitlines()
    assert len(lines) == 12 and lines[:11] == full[:11]
    assert lines[-1] == f"  ... and {len(full) - 11} more, which -v lists" and len(full) > 400
    command = ["predict", "-m", "mobilenetv3_small_100", "--weights", str(DIGITS_WEIGHTS), str(tmp_path / "none.png")]
    for options, count in (([], 12), (["-v"], len(full))):
        assert main([*command, *options]) == 2
        assert len(capsys.readouterr().err.splitlines()) == count


def test_error_without_details_is_one_line():
    error = InputError("what", ["  a", "  b"])
    assert str(error) == error.full == "what\n  a\n  b"
    assert str(InputError("what")) == InputError("what").full == "what"


def test_weights_of_a_resnet_that_only_look_alike():
    state = state_arrays(reference("resnet18", num_classes=3))
    with refused("holds the weights of resnet18, not of resnet34; use -m resnet18 (resnetblur18", one_line=False):
        nanoinfer.create_model("resnet34", state)
