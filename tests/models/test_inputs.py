"""Inputs that a model refuses, and what the messages say."""

import numpy as np
import pytest
import torch

import nanoinfer
from nanoinfer.reports.torch_reference import import_torchvision
from tests.helpers import DIGITS, refused

IMAGE = np.zeros((1, 3, 32, 32), np.float32)


@pytest.fixture(scope="module")
def vit():
    """vit_b_32 with one block."""
    return nanoinfer.create_model("vit_b_32", "random", num_layers=1, threads=1)


@pytest.mark.parametrize(
    "x, parts",
    [
        (IMAGE[0], ["shape (3, 32, 32)", "pass (N, 3, H, W), such as (1, 3, 224, 224)"]),
        (IMAGE[None], ["shape (1, 1, 3, 32, 32)", "pass (N, 3, H, W)"]),
        (np.zeros((), np.float32), ["shape ()", "pass (N, 3, H, W)"]),
        (IMAGE[:, :1], ["1 channels", "pass (N, 3, H, W)"]),
        (np.zeros((1, 4, 32, 32), np.float32), ["4 channels", "pass (N, 3, H, W)"]),
        (np.zeros((1, 32, 32, 3), np.float32), ["32 channels", "x.transpose(0, 3, 1, 2)"]),
        (IMAGE.astype(np.float64), ["float64", "x.astype(numpy.float32)"]),
        (IMAGE.astype(np.uint8), ["uint8", "x.astype(numpy.float32)"]),
        (IMAGE.astype(">f4"), [">f4", "x.astype(numpy.float32)"]),
        (IMAGE.astype(object), ["object", "float32"]),
        (IMAGE.tolist(), ["list", "pass a NumPy array of float32"]),
        (None, ["NoneType", "pass a NumPy array of float32"]),
        (torch.from_numpy(IMAGE), ["Tensor", "x.detach().cpu().numpy()"]),
        (IMAGE[:0], ["(0, 3, 32, 32)", "at least one image"]),
        (IMAGE[:, :, :0], ["(1, 3, 0, 32)", "holds nothing"]),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else value[0][:20],
)
def test_bad_input_is_refused(mobilenet, x, parts):
    with refused(*parts):
        mobilenet(x)


@pytest.mark.parametrize(
    "size", [(192, 256), (225, 225), (256, 256), (224, 192), (32, 1568), (31, 31), (1, 1)], ids=str
)
def test_vit_takes_one_image_size(vit, size):
    x = np.zeros((1, 3, *size), np.float32)
    with refused(f"{size[0]} x {size[1]} pixels do not fit", "give images of 224 x 224 pixels"):
        vit(x)
    with pytest.raises(AssertionError), torch.no_grad():
        torchvision = import_torchvision()
        torchvision.models.vision_transformer.VisionTransformer(224, 32, 1, 12, 768, 3072)(torch.from_numpy(x))


def test_vit_of_another_image_size():
    model = nanoinfer.create_model("vit_b_32", "random", num_layers=1, image_size=96, threads=1)
    assert model(np.zeros((1, 3, 96, 96), np.float32)).shape == (1, 1000)
    with refused("give images of 96 x 96 pixels"):
        model(np.zeros((1, 3, 224, 224), np.float32))


def test_unsupported_head_width_is_not_blamed_on_the_input():
    small = dict(image_size=64, patch_size=8, num_layers=1, hidden_dim=128, mlp_dim=128, num_heads=64)
    model = nanoinfer.create_model("vit_b_32", "random", **small)
    with refused("cannot run on this machine: attention heads of 2 channels"):
        model(np.zeros((1, 3, 64, 64), np.float32))


def test_model_works_after_a_refusal(mobilenet):
    y = mobilenet(IMAGE)
    with refused("float64"):
        mobilenet(IMAGE.astype(np.float64))
    np.testing.assert_array_equal(mobilenet(IMAGE), y)


def test_unknown_taps_are_refused(mobilenet):
    with refused("mobilenetv3_small_100 has no module 'blocks.2.9'; did you mean blocks.2"):
        mobilenet(IMAGE, taps=["blocks.2.1", "blocks.2.9"])
    for taps in (3, None, [[1]]):
        with refused("no module"):
            mobilenet(IMAGE, taps=taps)


@pytest.mark.parametrize(
    "shape", [(1, 576), (1, 575, 7, 7), (1, 577, 7, 7), (1, 576, 7, 7, 1), (0, 576, 7, 7), (1, 50, 768)], ids=str
)
def test_bad_feature_maps_are_refused(mobilenet, shape):
    with refused(str(shape)):
        mobilenet.forward_head(np.zeros(shape, np.float32))


@pytest.mark.parametrize("shape", [(1, 768), (1, 50, 767), (1, 50, 769), (1, 768, 7, 7), (768,)], ids=str)
def test_bad_tokens_are_refused(vit, shape):
    with refused(str(shape)):
        vit.forward_head(np.zeros(shape, np.float32))


def test_bad_logits_are_refused():
    model = nanoinfer.create_model("digits")
    for wrong in (np.zeros(10, np.float32), np.zeros((1, 0), np.float32), [1.0]):
        with refused("logits are an array (N, 10)"):
            model.top(wrong)


@pytest.mark.parametrize("topk", [0, -1, "2", 2.5, None])
def test_bad_topk_is_refused(topk):
    with refused(f"topk={topk!r}: give a whole number from 1 on"):
        nanoinfer.create_model("digits").predict(DIGITS / "digit_3.png", topk=topk)
