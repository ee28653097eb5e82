"""Arguments of create_model that are refused, and what the messages say."""

import pytest

import nanoinfer
from tests.helpers import refused


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (("mobilenetv3_smal_100",), ["'mobilenetv3_smal_100'", "did you mean mobilenetv3_small_100"]),
        (("zzz",), ["'zzz'", "nanoinfer models"]),
        (("zzz.a1_in1k",), ["'zzz.a1_in1k'", "nanoinfer models"]),
        (("tv_resnet50",), ["no model is called 'tv_resnet50'; timm now calls it resnet50.tv_in1k"]),
        ((["digits"],), ["no model is called ['digits']"]),
        ((None,), ["no model is called None"]),
        (("vit_b_32", None), ["vit_b_32 has no default weights", ".safetensors", "'random'"]),
        (("vit_b_32.IMAGENET1K_V1",), ["vit_b_32.IMAGENET1K_V1 has no default weights", "vit_b_32-d86f8d99.pth"]),
        (("resnet50.a1", "random"), ["resnet50 has no published weights 'a1'; did you mean a1_in1k"]),
        (("digits.a1", "random"), ["digits has no published weights 'a1'; it has none"]),
        (("resnext50_32x4d", "random:x"), ["'random:x'", "a seed is a whole number, as in 'random:7'"]),
        (("resnext50_32x4d", "random:-1"), ["'random:-1'", "'random:7'"]),
        (("resnext50_32x4d", "random:\u00b2"), ["a seed is a whole number"]),
        (("resnext50_32x4d", "random:" + "1" * 5000), ["a seed is a whole number"]),
        (("resnext50_32x4d", "missing.safetensors"), ["missing.safetensors: no such file"]),
        (("resnext50_32x4d", 7), ["weights cannot be of class int", "give a path"]),
    ],
    ids=repr,
)
def test_bad_names_and_weight_sources_are_refused(arguments, parts):
    with refused(*parts):
        nanoinfer.create_model(*arguments)


@pytest.mark.parametrize(
    "name, arguments, parts",
    [
        ("mobilenet_v2", {"width": 0.5}, ["width=0.5", "mobilenet_v2 has no argument width", "width_mult"]),
        ("mobilenetv2_article", {"width": 0.01}, ["width=0.01", "every size must be at least 1"]),
        ("mobilenetv2_article", {"width": 0}, ["width=0", "give a number above 0"]),
        ("mobilenetv2_article", {"width": -1.0}, ["width=-1.0", "give a number above 0"]),
        ("mobilenetv2_article", {"width": float("nan")}, ["width=nan"]),
        ("mobilenetv2_article", {"width": float("inf")}, ["width=inf"]),
        ("mobilenetv2_article", {"width": "1"}, ["width='1': give a number above 0", "such as 1.0"]),
        ("vit_b_32", {"image_size": 64.0}, ["image_size=64.0: give a whole number above 0", "such as 224"]),
        ("vit_b_32", {"image_size": 225}, ["image_size=225 is not a multiple of the patch size 32"]),
        ("mobilenetv2_050", {"depth": 0}, ["depth=", "number above 0"]),
        ("mobilenetv2_050", {"depth": 1e9}, ["depth=", "number above 0"]),
        ("mobilenet_v2", {"width_mult": -1.0}, ["width_mult=", "number above 0"]),
        ("vit_b_32", {"num_layers": 0}, ["num_layers=", "number above 0"]),
        ("vit_b_32", {"num_heads": -4}, ["num_heads=", "number above 0"]),
        ("vit_b_32", {"num_layers": True}, ["num_layers=", "number above 0"]),
        *(
            ("digits", {"num_classes": n}, [f"num_classes={n!r}: give a whole number from 0 up to"])
            for n in (-1, "2", 2.5, True)
        ),
        *(("digits", {"in_chans": n}, [f"in_chans={n!r}: give a whole number above 0"]) for n in (0, 1.0)),
        ("resnet50", {"image_size": -1}, ["image_size=-1: give a whole number above 0", "such as 224"]),
        *(("digits", {"threads": n}, [f"threads={n!r}: give a whole number from 1 on"]) for n in (0, -1, "2", 2.0)),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value)[:40],
)
def test_bad_arguments_are_refused(name, arguments, parts):
    with refused(*parts):
        nanoinfer.create_model(name, "random", **arguments)
