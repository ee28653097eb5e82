"""What weights mean: configs as timm and transformers write them, names of files, shapes of tensors, and the caller."""

import json
import warnings

import numpy as np
import pytest
import torch
from nanoinfer.weights import WeightSource
from safetensors.torch import save_file

import nanoinfer
from nanoinfer import checkpoint
from nanoinfer.image import preprocess
from nanoinfer.preprocessing import Preprocessing
from nanoinfer.pretrained.published import of_tag
from nanoinfer.reports.torch_reference import import_torchvision
from tests.helpers import DIGITS_WEIGHTS, refused
from tests.test_image import noise

NAME = "mobilenetv3_small_050"


def timm_module(name=NAME, **options):
    import_torchvision()
    import timm

    torch.manual_seed(0)
    return timm.create_model(name, **options).eval()


def saved(folder, module, **model_config):
    """The folder, with weights and config.json as timm's push_to_hf_hub writes them."""
    from timm.models import save_for_hf

    save_for_hf(module, folder, model_config=model_config, safe_serialization=True)
    return folder / "model.safetensors"


@pytest.fixture(scope="module")
def published_file(tmp_path_factory):
    """Weights of timm's with a config.json that says other things than the architecture's default."""
    module = timm_module(num_classes=3)
    module.pretrained_cfg.update(crop_pct=0.95, crop_mode="squash", interpolation="bilinear", mean=(0.0,) * 3)
    names = {"label_names": ["n1", "n2", "n3"], "label_descriptions": {"n1": "tench, Tinca tinca", "n3": "a\x1b[31m"}}
    return saved(tmp_path_factory.mktemp("published"), module, **names), module


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


def hub(monkeypatch, source, config=None):
    """Let every name of a hub stand for these arrays and this config."""
    arrays = {key: value.numpy() for key, value in source.state_dict().items()}
    monkeypatch.setattr(checkpoint, "read_weights", lambda name: WeightSource(arrays, (), config, name))


def test_hub_repository_without_config_is_known_by_its_name(monkeypatch):
    hub(monkeypatch, timm_module("mobilenetv3_large_100"))
    model = nanoinfer.create_model("mobilenetv3_large_100", "hub:timm/mobilenetv3_large_100.miil_in21k_ft_in1k@main")
    assert model.preprocessing == Preprocessing(256, 224, "bilinear", (0, 0, 0), (1, 1, 1))
    assert model.preprocessing.source == "timm's mobilenetv3_large_100.miil_in21k_ft_in1k" and not model.meaning.assumed
    with refused("by its name it holds weights of mobilenetv3_large_150d", "nanoinfer has no network of that name"):
        nanoinfer.create_model("mobilenetv3_large_100", "hub:timm/mobilenetv3_large_150d.ra4_e3600_r256_in1k")
    with refused("by its name it holds weights of tf_mobilenetv3_large_100", "use -m tf_mobilenetv3_large_100"):
        nanoinfer.create_model("mobilenetv3_large_100", "hub:timm/tf_mobilenetv3_large_100.in1k")
    with refused("by its name it holds weights of resnet18, not of mobilenetv3_large_100; use -m resnet18"):
        nanoinfer.create_model("mobilenetv3_large_100", "hub:timm/resnet18.a1_in1k")
    assert nanoinfer.create_model("mobilenetv3_large_100", "hub:someone/mine").meaning.assumed


def test_config_of_a_hub_repository_comes_before_its_name(monkeypatch):
    hub(monkeypatch, timm_module(), {"architecture": NAME, "pretrained_cfg": {"crop_pct": 1.0}})
    assert nanoinfer.create_model(NAME, f"hub:timm/{NAME}.lamb_in1k").preprocessing.resize == 224


def test_default_weights_have_the_preprocessing_of_their_tag(monkeypatch):
    hub(monkeypatch, timm_module("resnet18"))
    for name, tag in (("resnet18", "tv_in1k"), ("resnet18.a3_in1k", "a3_in1k")):
        model = nanoinfer.create_model(name)
        assert model.meaning.weights == f"hub:timm/resnet18.{tag}"
        assert model.preprocessing == of_tag("resnet18", tag).preprocessing()
        assert model.labels[0] == "tench" and model.meaning.labels_source == "the names of imagenet1k"


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory):
    """A folder with weights of resnet18 under the name of torchvision's file, and under names that say nothing."""
    folder = tmp_path_factory.mktemp("resnet18")
    state = timm_module("resnet18").state_dict()
    for name in ("resnet18-f37072fd.safetensors", "mine.safetensors", "resnet18.a1_in1k.safetensors"):
        save_file(state, folder / name)
    return folder


def test_file_is_known_by_its_name(resnet18):
    model = nanoinfer.create_model("resnet18", resnet18 / "resnet18-f37072fd.safetensors")
    assert model.preprocessing == of_tag("resnet18", "IMAGENET1K_V1").preprocessing()
    assert model.preprocessing.source == "torchvision's resnet18.IMAGENET1K_V1"
    model = nanoinfer.create_model("resnet18", str(resnet18 / "resnet18.a1_in1k.safetensors"))
    assert model.preprocessing.interpolation == "bicubic"
    with refused("resnet18-f37072fd.safetensors: by its name it holds weights of resnet18, not of resnet34; use -m"):
        nanoinfer.create_model("resnet34", resnet18 / "resnet18-f37072fd.safetensors")


def test_file_of_unknown_origin_says_once_what_is_assumed(resnet18):
    path = resnet18 / "mine.safetensors"
    model = nanoinfer.create_model("resnet18", path)
    image = noise(30, 20)
    with pytest.warns(UserWarning, match="does not say how images are prepared; assumed is the default of resnet18"):
        model.preprocess(image)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.preprocess(image)
        for stated in (
            nanoinfer.create_model("resnet18.a1_in1k", path),
            nanoinfer.create_model("resnet18", path, preprocessing={"resize": 240}),
            nanoinfer.create_model("resnet18", "random"),
            nanoinfer.create_model("digits"),
        ):
            stated.preprocess(image)
    assert nanoinfer.create_model("resnet18.a1_in1k", path).preprocessing.resize == 235


def test_caller_states_preprocessing(published_file):
    path, _ = published_file
    own = Preprocessing(100, 96)
    model = nanoinfer.create_model(NAME, path, preprocessing=own)
    assert model.preprocessing == own and model.preprocessing.source == "as given"
    np.testing.assert_array_equal(model.preprocess(noise(90, 80)), preprocess(noise(90, 80), own))
    model = nanoinfer.create_model(NAME, path, preprocessing={"resize": 300, "mean": 0.5, "interpolation": None})
    assert model.preprocessing == Preprocessing(300, 224, "bilinear", (0.5,) * 3, crop_mode="squash")
    assert model.preprocessing.source.startswith("resize, mean as given; else ")
    for wrong, part in (
        ({"size": 3}, "no field 'size'"),
        ({"mean": (1, 2)}, "mean has 2 numbers"),
        (256, "not int"),
        ({"crop": (3,) * 3}, "crop=(3, 3, 3)"),
        (Preprocessing(224, mean=(0.5,), std=(0.5,)), "takes 3 channels"),
    ):
        with refused(part):
            nanoinfer.create_model(NAME, path, preprocessing=wrong)


def test_image_size_scales_the_preprocessing(published_file):
    path, _ = published_file
    assert nanoinfer.create_model(NAME, path, image_size=288).preprocessing.resize == 302  # 288 * 235 // 224
    assert nanoinfer.create_model(NAME, path, image_size=288).preprocessing.crop == (288, 288)
    assert nanoinfer.create_model("vit_b_32", "random", image_size=64).preprocessing.crop == (64, 64)
    with refused("vit_b_32 is built for 224 x 224 pixels, and a crop of 96 x 96 does not fit"):
        nanoinfer.create_model("vit_b_32", "random", preprocessing={"crop": 96})


def test_size_of_a_transformer_is_read_off_its_position_embeddings():
    arrays = nanoinfer.create_model("vit_b_32", "random", image_size=96, num_layers=1).tensors
    model = nanoinfer.create_model("vit_b_32", arrays, num_layers=1)
    assert model.arguments["image_size"] == 96 and model.preprocessing.crop == (96, 96)
    model = nanoinfer.create_model("vit_b_16.IMAGENET1K_SWAG_E2E_V1", "random", image_size=32)
    assert model.preprocessing == Preprocessing(32, 32, "bicubic")


def test_number_of_classes_is_read_off_the_head():
    arrays = dict(nanoinfer.create_model("mobilenetv2_article", "random", width=0.1, num_classes=7).tensors)
    model = nanoinfer.create_model("mobilenetv2_article", arrays, width=0.1)
    assert model.classes == 7 and model.labels == tuple(f"class {index}" for index in range(7))
    with refused("other shape fc.weight", one_line=False):
        nanoinfer.create_model("mobilenetv2_article", arrays, width=0.1, num_classes=10)


def test_headless_weights_and_headless_networks_give_embeddings():
    images = noise(100, 90)
    whole = nanoinfer.create_model("digits")
    with pytest.warns(UserWarning, match="assumed is the default of digits"):
        headless = {name: array for name, array in whole.tensors.items() if not name.startswith("fc.")}
        found = nanoinfer.create_model("digits", headless)
        vectors = found.embed(images)
    asked = nanoinfer.create_model("digits", num_classes=0)
    assert vectors.shape == (1, 448) and vectors.dtype == np.float32
    for model in (found, asked):
        assert (model.classes, model.labels) == (0, ()) and "no head" in repr(model)
        assert "without a head" in model.meaning.notes[0]
        np.testing.assert_array_equal(model(whole.preprocess(images)), vectors)
        with refused("digits has no head here", "use embed"):
            model.predict(images)
    np.testing.assert_array_equal(whole.embed(images), vectors)
    np.testing.assert_array_equal(whole.embed(whole.preprocess(images)), vectors)
    head = whole.tensors["fc.weight"].astype(np.float64), whole.tensors["fc.bias"]
    np.testing.assert_allclose(vectors @ head[0].T + head[1], whole(whole.preprocess(images)), rtol=1e-4, atol=1e-4)
    with refused("without a head has no classes"):
        nanoinfer.create_model("digits", num_classes=0, labels=["x"])
    with refused("missing     fc.weight", "left over   fc.weights", one_line=False):
        nanoinfer.create_model("digits", {**headless, "fc.weights": np.zeros((10, 448), np.float32)})


def test_embedding_is_that_of_timm():
    module = timm_module("mobilenetv3_small_100")
    arrays = {name: value for name, value in module.state_dict().items()}
    model = nanoinfer.create_model("mobilenetv3_small_100", arrays, threads=1)
    x = np.random.default_rng(0).standard_normal((1, 3, 96, 64), np.float32)
    with torch.no_grad():
        expected = module.forward_head(module.forward_features(torch.from_numpy(x)), pre_logits=True).numpy()
    np.testing.assert_allclose(model.embed(x), expected, rtol=1e-3, atol=1e-4)


def test_grey_checkpoint_reads_images_as_grey():
    arrays = dict(nanoinfer.create_model("digits").tensors)
    grey = {**arrays, "first_conv.conv.weight": arrays["first_conv.conv.weight"].sum(1, keepdims=True)}
    model = nanoinfer.create_model("digits", grey, preprocessing={})
    assert model.channels == 1 and model.preprocessing.mean == (0.5,)
    image = noise(90, 90)
    x = model.preprocess(image)
    assert x.shape == (1, 1, 96, 96)
    three = nanoinfer.create_model("digits")(np.repeat(x, 3, 1))
    np.testing.assert_allclose(model(x), three, rtol=1e-4, atol=1e-4)
    with refused("the input has 3 channels; pass (N, 1, H, W)"):
        model(np.repeat(x, 3, 1))
    with refused("digits has no program for shape (1, 3, 96, 96); give (N, 1, H, W)"):
        model.program((1, 3, 96, 96))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_weights_of_three_channels_are_adapted_as_in_timm(channels):
    from timm.models import adapt_input_conv

    arrays = dict(nanoinfer.create_model("digits").tensors)
    name = "first_conv.conv.weight"
    model = nanoinfer.create_model("digits", arrays, in_chans=channels)
    expected = adapt_input_conv(channels, torch.tensor(arrays[name])).numpy()
    np.testing.assert_allclose(model.tensors[name], expected, rtol=1e-6)
    assert any(f"adapted to {channels}" in note for note in model.meaning.notes)
    if channels > 1:
        with refused(f"digits takes {channels} channels, which no image has"):
            model.predict(noise(9, 9))


def test_channels_of_a_config(tmp_path):
    module = timm_module(in_chans=1)
    model = nanoinfer.create_model(NAME, saved(tmp_path, module))
    assert model.channels == 1 and model.preprocessing.mean == (pytest.approx(0.449),)


def test_digits_of_the_package_stay_what_they_were():
    model = nanoinfer.create_model("digits")
    assert model.preprocessing == nanoinfer.architectures.MODELS["digits"].preprocessing
    assert model.meaning.weights == "digits.safetensors of this package"
    assert nanoinfer.create_model("digits", DIGITS_WEIGHTS).meaning.assumed
