"""config.json as timm and transformers write it, beside weights: what it states, and what is refused."""

import json

import numpy as np
import pytest
import torch

import nanoinfer
from nanoinfer.preprocessing import Preprocessing
from tests.helpers import noise, refused
from tests.pretrained.timm_files import NAME, hub, saved, timm_module


def test_config_beside_a_file_states_preprocessing_and_labels(published_file):
    from timm.data import create_transform, resolve_model_data_config

    path, module = published_file
    model = nanoinfer.create_model(NAME, path)
    assert (model.classes, model.labels) == (3, ("tench, Tinca tinca", "n2", "a\\x1b[31m"))
    assert model.preprocessing == Preprocessing(235, 224, "bilinear", (0, 0, 0), crop_mode="squash")
    assert "config.json" in model.preprocessing.source and model.meaning.labels_source == "config.json"
    image = noise(300, 200)
    transform = create_transform(**resolve_model_data_config(module), is_training=False)
    np.testing.assert_array_equal(model.preprocess(image)[0], transform(image).numpy())


def config_of(path):
    return json.loads((path.parent / "config.json").read_text())


def beside(tmp_path, path, config):
    """The weights with another config.json beside them, which is a text or an object."""
    (tmp_path / "model.safetensors").write_bytes(path.read_bytes())
    (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return tmp_path / "model.safetensors"


def test_older_flat_config(tmp_path, published_file):
    """timm once wrote pretrained_cfg's fields at the top, and its labels as "labels"."""
    path, _ = published_file
    config = config_of(path)
    flat = {"architecture": NAME, "num_features": 1024, "labels": ["x", "y", "z"], **config["pretrained_cfg"]}
    model = nanoinfer.create_model(NAME, beside(tmp_path, path, flat))
    assert model.preprocessing == nanoinfer.create_model(NAME, path).preprocessing
    assert model.labels == ("x", "y", "z")


def test_config_without_preprocessing_or_for_something_else(tmp_path, published_file):
    path, _ = published_file
    for config in ({"architecture": NAME}, {"epochs": 90}, {"architecture": {"layers": 3}}, "[]", "{", ""):
        model = nanoinfer.create_model(NAME, beside(tmp_path, path, config))
        assert model.meaning.assumed and model.labels == ("class 0", "class 1", "class 2")
    partly = {"architecture": NAME, "pretrained_cfg": {"input_size": [3, 160, 160]}}
    model = nanoinfer.create_model(NAME, beside(tmp_path, path, partly))
    assert model.preprocessing == Preprocessing(182, 160, "bicubic")  # the rest is timm's default


TRANSFORMERS = {"model_type": "resnet", "id2label": {"1": "cat", "0": "dog", "2": "cow"}}


@pytest.mark.parametrize(
    "processor, expected",
    [
        (
            {"crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "size": {"shortest_edge": 256}},
            Preprocessing(256, 224, "bilinear", (0.5,) * 3, (0.5,) * 3),
        ),
        (
            {"size": {"height": 240, "width": 224}, "resample": 3, "image_mean": [0.4, 0.5, 0.6]},
            Preprocessing((240, 224), (240, 224), "bicubic", (0.4, 0.5, 0.6), (0.5,) * 3, "squash"),
        ),
        ({"size": 192, "do_normalize": False}, Preprocessing(192, 192, "bilinear", (0,) * 3, (1,) * 3, "squash")),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 0.875},
            Preprocessing(256, 224, "bilinear", (0.5,) * 3, (0.5,) * 3),
        ),
        (
            {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 384},
            Preprocessing(384, 384, "bilinear", (0.5,) * 3, (0.5,) * 3, "squash"),
        ),
    ],
)
def test_config_of_transformers(tmp_path, published_file, processor, expected):
    path, _ = published_file
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    model = nanoinfer.create_model(NAME, beside(tmp_path, path, TRANSFORMERS))
    assert model.labels == ("dog", "cat", "cow")
    assert model.preprocessing == expected and "preprocessor_config.json" in model.preprocessing.source


@pytest.mark.parametrize(
    "processor, part",
    [
        ({"do_resize": False}, "do_resize is False"),
        ({"do_rescale": False}, "do_rescale"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order"),
        ({"resample": 9}, "resample=9"),
        ({"size": {"longest_edge": 9}}, "size"),
        ({"size": {"shortest_edge": 256}}, "size"),
        ([], "not what timm or transformers"),
    ],
)
def test_other_processors_of_transformers_are_refused(tmp_path, published_file, processor, part):
    path, _ = published_file
    with refused("preprocessor_config.json", part):
        nanoinfer.create_model(NAME, beside(tmp_path, path, {**TRANSFORMERS, "preprocessor_config": processor}))


@pytest.mark.parametrize(
    "said, hint",
    [
        ("mobilenetv4_conv_small_050", "nanoinfer has no network of that name"),
        ("resnet50.a1_in1k", "not of mobilenetv3_small_050; use -m resnet50"),
        ("gluon_resnet50_v1b", "resnet50, not of mobilenetv3_small_050; use -m resnet50"),
        ("x\x1b[2J", "x\\x1b[2J"),
    ],
)
def test_config_of_another_architecture_is_refused(tmp_path, published_file, said, hint):
    path, _ = published_file
    with refused("by its config.json it holds weights of", hint):
        nanoinfer.create_model(NAME, beside(tmp_path, path, {**config_of(path), "architecture": said}))


def test_same_architecture_by_another_name_is_taken(tmp_path, published_file):
    path, _ = published_file
    for said in (f"{NAME}.lamb_in1k", f"timm/{NAME}"):
        nanoinfer.create_model(NAME, beside(tmp_path, path, {**config_of(path), "architecture": said}))


@pytest.mark.parametrize(
    "config, parts",
    [
        ({"model_args": {"global_pool": "catavgmax"}}, [f"{NAME} cannot be built with global_pool='catavgmax'"]),
        ({"model_args": {}, "global_pool": "token"}, [f"{NAME} cannot be built with global_pool='token'"]),
        ({"model_args": {"act_layer": "silu"}}, ["act_layer='silu'", f"{NAME} has not"]),
        ({"model_args": 3}, ["model_args is a int"]),
        ({"num_classes": -1}, ["num_classes=-1"]),
        ({"pretrained_cfg": []}, ["pretrained_cfg is a list"]),
        ({"label_names": {"a": "b"}}, ["label_names: its keys are not the numbers"]),
        ({"label_names": {"9999999999": "b"}}, ["label_names: its keys are not the numbers"]),
        ({"label_names": 7}, ["label_names: a int"]),
        ({"label_descriptions": ["x"]}, ["label_descriptions is a list"]),
    ],
)
def test_bad_configs_are_refused(tmp_path, published_file, config, parts):
    path, _ = published_file
    with refused(str(tmp_path), "config.json", *parts):
        nanoinfer.create_model(NAME, beside(tmp_path, path, {**config_of(path), **config}))


def test_pool_of_a_config(tmp_path, published_file, monkeypatch):
    path, _ = published_file
    for said, pool in (("max", "max"), ("fast", "avg"), ("fastmax", "max")):
        config = {**config_of(path), "model_args": {"global_pool": said, "drop_rate": 0.2}}
        assert nanoinfer.create_model(NAME, beside(tmp_path, path, config)).arguments["global_pool"] == pool
    for said in ("avg", "fast"):
        hub(monkeypatch, timm_module("resnet18"), {"architecture": "resnet18", "global_pool": said})
        nanoinfer.create_model("resnet18", "hub:someone/mine")
    hub(monkeypatch, timm_module("resnet18"), {"architecture": "resnet18", "global_pool": "max"})
    with refused("its config.json says global_pool='max', which nanoinfer's resnet18 has not; its answers would"):
        nanoinfer.create_model("resnet18", "hub:someone/mine")


WRONG = (True, -1, 0, 0.5, 1e99, float("nan"), "x", "\x1b", [], [1], ["a", "b", "c"], [1, 2, 3, 4], {}, {"a": 1}, [[]])


@pytest.mark.parametrize("key", ["input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std"])
def test_any_value_in_a_config_is_used_or_refused(tmp_path, published_file, key):
    path, _ = published_file
    config = config_of(path)
    for value in WRONG:
        config["pretrained_cfg"] = {**config["pretrained_cfg"], key: value}
        source = beside(tmp_path, path, config)
        try:
            nanoinfer.create_model(NAME, source)
        except nanoinfer.InputError as error:
            assert "\n" not in str(error) and "\x1b" not in str(error) and "config.json" in str(error)
        else:
            assert (key, value) in [("crop_pct", 0.5), ("mean", 0.5), ("mean", -1), ("mean", 0), ("std", 0.5)] or (
                key == "mean" and value in (1e99, [1]) or key == "std" and value in (1e99, [1])
            ), (key, value)


def test_answers_are_those_of_timm(tmp_path):
    """Everything at once: a fine-tuned network as timm saves it, and a photograph."""
    from timm.data import create_transform, resolve_model_data_config

    module = timm_module("mobilenetv3_small_100", num_classes=5)
    module.pretrained_cfg.update(input_size=(3, 96, 96), crop_pct=0.9, crop_mode="border", mean=(0.3, 0.4, 0.5))
    path = saved(tmp_path, module, label_names=["ant", "bee", "cat", "dog", "eel"])
    image = noise(150, 110)
    transform = create_transform(**resolve_model_data_config(module), is_training=False)
    with torch.no_grad():
        expected = module(transform(image)[None]).double().softmax(1)[0].numpy()
    (answer,) = nanoinfer.create_model("mobilenetv3_small_100", path.parent).predict(image)
    assert [label for label, _, _ in answer] == [["ant", "bee", "cat", "dog", "eel"][i] for i in np.argsort(-expected)]
    np.testing.assert_allclose([p for _, _, p in answer], np.sort(expected)[::-1], rtol=1e-4)
