"""Files under other libraries' names: renamed, or computed as those libraries compute them, or refused."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import nanoinfer
from bench.references import randomise, reference, state_arrays
from nanoinfer.architectures import MODELS, Dialect, spoken, translated
from nanoinfer.architectures.dialect import Setting, arguments_of, left_out
from nanoinfer.preprocessing import Preprocessing
from nanoinfer.reports.torch_reference import import_torchvision, reference_module
from tests.helpers import random_images, refused
from tests.pretrained.other_names import transformers_mobilenet_v2, transformers_resnet, transformers_vit

SMALL_VIT = {"image_size": 64, "num_layers": 2, "hidden_dim": 128, "mlp_dim": 256}
VIT_FILE = (  # a layer of a file that transformers saved, of google/vit-base-patch16-224 and all its like
    "vit.encoder.layer.0.attention.attention.key.bias",
    "vit.encoder.layer.0.attention.attention.query.weight",
    "vit.encoder.layer.0.attention.output.dense.weight",
    "vit.encoder.layer.0.intermediate.dense.weight",
    "vit.encoder.layer.0.layernorm_after.bias",
    "vit.encoder.layer.0.output.dense.weight",
)
FUSING = Dialect(
    "a test",
    r"old\..+",
    ((r"old\.(q|k)\.(\w+)", r"new.\1.\2"), (r"new\.q\.w", "x.w[0]"), (r"a\.(\d)", r"x.\1"), (r"z", "")),
)


def small_vit(eps):
    """torchvision's VisionTransformer of SMALL_VIT, as transformers configures it, in eval mode."""
    transformer = import_torchvision().models.VisionTransformer(
        patch_size=32, num_heads=4, num_classes=10, norm_layer=partial(nn.LayerNorm, eps=eps), **SMALL_VIT
    )
    return randomise(transformer, 3).eval()


@torch.no_grad()
def assert_agrees(model, module, x):
    """nanoinfer's logits are those of the torch module in float64, but for rounding."""
    expected = module.double()(torch.from_numpy(x).double()).numpy()
    np.testing.assert_allclose(model(x), expected, atol=3e-5 * np.abs(expected).max())


@pytest.mark.parametrize("version", [4, 5])
def test_transformers_vit(version):
    module = small_vit(eps=1e-12)
    state = transformers_vit(state_arrays(module), version)
    if version == 4:
        assert set(VIT_FILE) < set(state)
    model = nanoinfer.create_model("vit_b_32", state, num_heads=4, **SMALL_VIT)
    assert {node.attributes["eps"] for node in model.graph.nodes if node.op == "layer_norm"} == {1e-12}
    assert model.preprocessing == Preprocessing((64, 64), 64, mean=(0.5,) * 3, std=(0.5,) * 3, crop_mode="squash")
    assert model.classes == 10
    assert_agrees(model, module, random_images(2, (64, 64)))


def test_transformers_vit_without_head_leaves_the_pooler_out():
    state = transformers_vit(state_arrays(small_vit(1e-12)))
    state = {name.removeprefix("vit."): array for name, array in state.items() if "classifier" not in name}
    state |= {"pooler.dense.weight": np.zeros((128, 128), np.float32), "pooler.dense.bias": np.zeros(128, np.float32)}
    model = nanoinfer.create_model("vit_b_32", state, num_heads=4, **SMALL_VIT)
    x = random_images(1, (64, 64))
    np.testing.assert_allclose(model(x), model.forward_features(x)[:, 0], atol=1e-5)
    assert any("pooler.dense.weight" in note for note in model.meaning.notes)


def test_transformers_resnet():
    module = reference("resnet18", seed=4, num_classes=10)
    state = transformers_resnet(state_arrays(module))
    assert "resnet.encoder.stages.1.layers.0.shortcut.normalization.running_var" in state
    model = nanoinfer.create_model("resnet18", state)
    assert_agrees(model, module, random_images(2, (64, 64)))


def test_transformers_mobilenet_v2_pads_as_tensorflow():
    module = reference("mobilenetv2_035", seed=5, num_classes=1001, pad_type="same", bn_eps=1e-3)
    state, x = transformers_mobilenet_v2(state_arrays(module)), random_images(2, (64, 48))
    assert "mobilenet_v2.layer.15.reduce_1x1.normalization.bias" in state
    model = nanoinfer.create_model("mobilenetv2_035", state)
    assert_agrees(model, module, x)
    assert not np.allclose(nanoinfer.create_model("mobilenetv2_035", state_arrays(module))(x), model(x), atol=1e-3)
    assert_agrees(model, reference_module(model), x)
    given = nanoinfer.create_model("mobilenetv2_035", state, pad_type="")  # what the caller says comes first
    assert not np.allclose(given(x), model(x), atol=1e-3)


def test_reference_of_a_comparison_has_the_eps_of_the_names():
    model = nanoinfer.create_model("vit_b_32", "random:1", image_size=32, layer_norm_eps=0.1)
    assert_agrees(model, reference_module(model), random_images(1, (32, 32)))


def test_settings_of_a_config_are_taken_or_refused():
    vit, resnet, mobilenet = (MODELS[name].dialects[-1] for name in ("vit_b_16", "resnet50", "mobilenetv2_100"))
    assert arguments_of(vit, {"layer_norm_eps": 1e-6, "num_attention_heads": 3}, "f") == {
        "layer_norm_eps": 1e-6,
        "num_heads": 3,
    }
    assert arguments_of(vit, None, "f") == {"layer_norm_eps": 1e-12}
    assert arguments_of(mobilenet, {"tf_padding": False}, "f") == {"pad_type": "", "bn_eps": 1e-3}
    assert arguments_of(mobilenet, None, "f") == {"pad_type": "same", "bn_eps": 1e-3}
    for dialect, key, value in (
        (vit, "hidden_act", "gelu_new"),
        (resnet, "downsample_in_bottleneck", True),
        (mobilenet, "output_stride", 16),
        (mobilenet, "tf_padding", "yes"),
        (mobilenet, "tf_padding", [True]),
        (vit, "layer_norm_eps", "tiny"),
        (vit, "num_attention_heads", {}),
    ):
        with refused("f: its config.json says", f"{key}="):
            arguments_of(dialect, {key: value}, "f")


def test_translation_keeps_what_would_collide():
    arrays = {name: np.full((2, 3), index) for index, name in enumerate(["old.q.w", "old.k.w", "new.k.w", "other"])}
    names = translated(FUSING, arrays)
    assert list(names) == ["new.q.w", "old.k.w", "new.k.w", "other"]
    assert names["old.k.w"] is arrays["old.k.w"]
    assert left_out(FUSING, ["old.q.w", "z"]) == ["z"]
    assert spoken((FUSING,), ["x", "old.k.w"]) is FUSING and spoken((FUSING,), ["x"]) is None


def test_parts_of_a_tensor_need_each_other():
    parts = Dialect("a test", "q", (("q", "w[0]"), ("k", "w[1]"), ("v", "w[2]")))
    q, k, v = (np.full((2, 3), number) for number in range(3))
    np.testing.assert_array_equal(translated(parts, {"k": k, "v": v, "q": q})["w"], np.concatenate([q, k, v]))
    for arrays in ({"q": q, "v": v}, {"q": q, "k": k, "v": v, "w": v}, {"q": q, "k": k[:, :1], "v": v}, {"q": q}):
        assert translated(parts, arrays).keys() == arrays.keys()
    scalars = {name: np.float32(0) for name in "qkv"}
    assert translated(parts, scalars).keys() == scalars.keys()


def test_settings_need_a_number_where_one_is_expected():
    dialect = Dialect("a test", "q", (), settings=(Setting("eps", 1e-3, "bn_eps"),))
    assert arguments_of(dialect, {"eps": 1}, "f") == {"bn_eps": 1}
    assert arguments_of(dialect, {"eps": None}, "f") == {"bn_eps": 1e-3}
    with refused("eps=True"):
        arguments_of(dialect, {"eps": True}, "f")
