"""What weights mean: by names of files and repositories, shapes of tensors, and the caller."""

import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import nanoinfer
from nanoinfer.image import preprocess
from nanoinfer.preprocessing import Preprocessing
from nanoinfer.pretrained.published import of_tag
from tests.helpers import DIGITS_WEIGHTS, noise, refused
from tests.pretrained.timm_files import NAME, hub, saved, timm_module


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


def test_network_of_a_training_checkpoint(tmp_path):
    """Its entry "arch" counts if it is a network of ours: the same tensors may be meant for another computation."""
    state = timm_module("tf_mobilenetv3_small_100").state_dict()
    for legacy in (False, True):
        for said in ("tf_mobilenetv3_small_100", "my_net", 3):
            checkpoint = {"arch": said, "state_dict": state}
            torch.save(checkpoint, tmp_path / "last.pth", _use_new_zipfile_serialization=not legacy)
            nanoinfer.create_model("tf_mobilenetv3_small_100", tmp_path / "last.pth")
            if said == "tf_mobilenetv3_small_100":
                with refused(
                    "last.pth: by its entry 'arch' it holds weights of tf_mobilenetv3_small_100", "use -m tf_"
                ):
                    nanoinfer.create_model("mobilenetv3_small_100", tmp_path / "last.pth")
            else:
                nanoinfer.create_model("mobilenetv3_small_100", tmp_path / "last.pth")


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
    arrays = {name: np.asarray(array) for name, array in nanoinfer.create_model("digits").tensors.items()}
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

    arrays = {name: np.asarray(array) for name, array in nanoinfer.create_model("digits").tensors.items()}
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
