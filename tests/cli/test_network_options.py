"""Options of every command that builds a network, of preprocessing and labels; what -v says; and published weights."""

import re

import numpy as np
import pytest
from nanoinfer.weights import save_safetensors

import nanoinfer
from nanoinfer.pretrained.published import published
from tests.cli.command_line import SAMPLES, refused

HEADLESS = (
    "nanoinfer: digits.safetensors of this package: gives a network without a head, whose output is the embedding\n"
)
SETTINGS = ("--resize", "300", "--crop", "200x240", "--crop-mode", "squash", "--interpolation", "bicubic")


def test_options_become_arguments(run, models, photo, tmp_path):
    colours = ("--mean", "0.1,0.2,0.3", "--std", "0.5")
    run("predict", photo, "-m", "mobilenet_v2", "--width", "0.5", "--num-classes", "3", *SETTINGS, *colours)
    run("embed", photo, "-m", "mobilenetv2_050", "--width", "0.5", "--image-size", "64", "--num-classes", "0")
    run("predict", photo, "--labels", tmp_path / "names.txt", "--exact")
    first, second, third = (model.options for model in models)
    setting = {"resize": 300, "crop": (200, 240), "crop_mode": "squash", "interpolation": "bicubic"}
    colours = {"mean": (0.1, 0.2, 0.3), "std": (0.5,)}
    assert first == {"num_classes": 3, "width_mult": 0.5, "preprocessing": {**setting, **colours}}
    assert second == {"num_classes": 0, "image_size": 64, "width": 0.5}
    assert third == {"labels": str(tmp_path / "names.txt"), "exact": True}


@pytest.mark.parametrize(
    "option, value, part",
    [
        ("--resize", "big", "'big' is not a whole number"),
        ("--crop", "1x2x3", "neither a number of pixels nor HEIGHTxWIDTH"),
        ("--crop", "0", "'0' is not a whole number above 0"),
        ("--mean", "a,b,c", "'a' is not a number"),
        ("--std", "nan", "'nan' is not a number"),
        ("--width", "inf", "'inf' is not a number"),
        ("--num-classes", "-1", "'-1' is not a whole number"),
        ("--interpolation", "cubic", "interpolation='cubic': give one of"),
        ("--crop-mode", "fill", "crop_mode='fill': give one of center, border, squash"),
        ("--std", "0,1,1", "give numbers above 0"),
        ("--mean", "1,2", "mean has 2 numbers"),
        ("--labels", "nowhere.txt", "nowhere.txt: No such file"),
    ],
)
def test_wrong_options_are_refused(run, option, value, part):
    refused(run("predict", SAMPLES[0], "-m", "digits", f"{option}={value}"), part)


def test_options_change_the_answer_as_they_should(run):
    image = str(SAMPLES[3])
    _, out, _ = run("predict", image, "--resize", 120, "--mean", "0.4", "--format", "csv", "--topk", 10)
    model = nanoinfer.create_model("digits", preprocessing={"resize": 120, "mean": 0.4})
    rows = [line.split(",") for line in out.splitlines()[1:]]
    expected = [(label, f"{probability:.6f}") for label, _, probability in model.predict(image, 10)[0]]
    assert [(row[2], row[4]) for row in rows] == expected
    assert run("predict", image, "--format", "csv", "--topk", 10)[1] != out


def test_verbose_says_what_is_used(run, tmp_path):
    code, out, err = run("predict", SAMPLES[0], "-v", "--resize", 99, "--threads", 1)
    assert code == 0 and "network" not in out
    assert err.splitlines() == [
        "nanoinfer: network: digits, 10 classes, 1 threads",
        "nanoinfer: weights: digits.safetensors of this package",
        "nanoinfer: preprocessing: resize 99 bilinear, crop 96 x 96, mean 0.5 0.5 0.5, std 0.5 0.5 0.5 "
        "(resize as given; else the default of digits)",
        "nanoinfer: labels: the names of digits",
    ]
    code, _, err = run("embed", SAMPLES[0], "-v", "--num-classes", 0)
    assert code == 0 and "network: digits, no head," in err and "labels:" not in err
    assert err.endswith(HEADLESS)


def test_notes_are_printed_without_verbose(run):
    code, _, err = run("embed", SAMPLES[0], "--num-classes", 0)
    assert (code, err) == (0, HEADLESS)


def test_file_of_unknown_origin_gives_one_line(run, tmp_path):
    arrays = nanoinfer.create_model("digits").tensors
    save_safetensors(arrays, tmp_path / "mine.safetensors")
    for images in (SAMPLES[:1], SAMPLES[:3]):
        code, out, err = run("predict", *images, "--weights", tmp_path / "mine.safetensors")
        assert code == 0 and err.count("\n") == 1
        assert (
            "mine.safetensors does not say how images are prepared; assumed is the default of digits: resize 96" in err
        )
    assert run("predict", SAMPLES[0], "--weights", tmp_path / "mine.safetensors", "--resize", 96)[2] == ""


def test_binary_classifier_has_two_rows(run, tmp_path):
    arrays = dict(nanoinfer.create_model("digits").tensors)
    arrays |= {"fc.weight": np.zeros((1, 448), np.float32), "fc.bias": np.full(1, np.log(3), np.float32)}
    save_safetensors(arrays, tmp_path / "w.safetensors")
    (tmp_path / "names").write_text("cat\ndog\n")
    options = ("--weights", tmp_path / "w.safetensors", "--resize", 96, "--labels", tmp_path / "names")
    code, out, _ = run("predict", SAMPLES[0], *options, "--format", "csv")
    assert "network: digits, a single logit for two classes, " in run("predict", SAMPLES[0], *options, "-v")[2]
    assert code == 0 and re.findall(r",(\w+),(\d),(0\.\d+),", out) == [
        ("dog", "1", "0.750000"),
        ("cat", "0", "0.250000"),
    ]


def test_network_without_head_is_not_classified(run):
    code, out, err = run("predict", SAMPLES[0], "-m", "digits", "--num-classes", 0)
    assert (code, out) == (2, "") and "no classes; run: nanoinfer embed" in err


def test_other_commands_take_the_options(run, models):
    _, out, _ = run("summary", "vit_b_32", "--image-size", 64, "--num-classes", 7, "--depth", 1)
    assert "[1, 5, 768]" in out and "[1, 7]" in out
    _, out, _ = run("summary", "mobilenet_v2", "--width", 0.25, "--depth", 1, "--image-size", 64)
    assert "[1, 1280, 2, 2]" in out
    assert "587,466 parameters" in run("inspect", "digits", "--width", 0.5)[1]
    refused(run("inspect", "some.pth", "--width", 0.5), "some.pth: is no network; leave out its arguments")
    refused(run("summary", "resnet18", "--width", 0.5), "resnet18 has no argument width")
    run("warmup", "resnet18", "--image-size", 64, "--num-classes", 5)
    assert models[0].options == {"image_size": 64, "num_classes": 5}


def test_profile_and_compare_take_the_options(run):
    code, out, _ = run("profile", "digits", "--width", 0.1, "--image-size", 32, "--num-classes", 3, "--repeat", 2)
    assert code == 0 and "digits, 1x3x32x32" in out
    code, out, _ = run(
        "compare", "mobilenetv3_small_050", "--weights", "random", "--num-classes", 0, "--image-size", 32
    )
    assert code == 0 and "agrees in all" in out
    refused(run("compare", "resnet18", "--weights", "random", "--num-classes", 0), "resnet18 has a head")


def test_models_lists_published_weights(run):
    code, out, err = run("models", "resnet18", "-v")
    assert (code, err) == (0, "") and "hub:timm/resnet18.a1_in1k" in out
    rows = [row for row in published() if row.architecture == "resnet18"]
    assert [line.split()[0] for line in out.splitlines() if re.match(r"resnet18\.", line)] == [row.name for row in rows]
    assert re.search(r"resnet18\.IMAGENET1K_V1 +256 +224 +bilinear +0\.485 0\.456 0\.406 +69\.758% +https://", out)
    assert len(run("models", "digits", "-v")[1].splitlines()) == 3
