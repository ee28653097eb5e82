"""MobileNetV2 as timm and torchvision define it: one table, two naming schemes.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", https://arxiv.org/abs/1801.04381, table 2;
timm/models/efficientnet.py:_gen_mobilenet_v2; torchvision/models/mobilenetv2.py. `article` builds from the same table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from ..graph import Builder, Graph, Value
from .architecture import Architecture, Preprocessing
from .dialect import Dialect, Setting
from .timm_blocks import (
    TORCH,
    batch_norm_act,
    depthwise_separable,
    inverted_residual,
    make_divisible,
    select_pool,
    timm_builder,
)


class Stage(NamedTuple):
    """A row of the paper's table: `blocks` inverted residuals, the first with `stride`, the others with stride 1."""

    expansion: int  # t
    channels: int  # c
    blocks: int  # n
    stride: int  # s
    window: int = 3  # of the depthwise convolutions


STEM_CHANNELS = 32  # 3 x 3, stride 2; 224 x 224 -> 112 x 112
STAGES = (
    #     t    c  n  s
    Stage(1, 16, 1, 1),  # 112 x 112 -> 112 x 112
    Stage(6, 24, 2, 2),  # 112 x 112 -> 56 x 56
    Stage(6, 32, 3, 2),  # 56 x 56 -> 28 x 28
    Stage(6, 64, 4, 2),  # 28 x 28 -> 14 x 14
    Stage(6, 96, 3, 1),  # 14 x 14 -> 14 x 14
    Stage(6, 160, 3, 2),  # 14 x 14 -> 7 x 7
    Stage(6, 320, 1, 1),  # 7 x 7 -> 7 x 7
)
HEAD_CHANNELS = 1280  # 1 x 1, 7 x 7


def timm_mobilenetv2(
    num_classes: int, width: float, depth: float, fixed_ends: bool, *, pad_type: str, bn_eps: float, global_pool: str
) -> Graph:
    """timm's mobilenetv2_*; the arguments are those of `timm_network`."""
    return timm_network(
        STAGES, num_classes=num_classes, width=width, depth=depth, fixed_ends=fixed_ends, pad_type=pad_type,
        bn_eps=bn_eps, global_pool=global_pool,
    )  # fmt: skip


def timm_network(
    stages: tuple[Stage, ...],
    *,
    num_classes: int,
    width: float,
    depth: float,
    fixed_ends: bool,
    pad_type: str,
    bn_eps: float,
    global_pool: str,
) -> Graph:
    """timm's EfficientNet class over a table.

    Channels are multiplied by `width`, the blocks of a stage by `depth` and rounded up. With `fixed_ends`, the
    stem and the head keep the paper's channels, and the first and the last stage one block. pad_type, bn_eps and
    global_pool mean what they mean in timm: `timm_blocks` has them.
    """
    net = timm_builder("EfficientNet", pad_type, bn_eps)
    x = net.conv2d(net.input, "conv_stem", STEM_CHANNELS if fixed_ends else _scaled(STEM_CHANNELS, width), 3, stride=2)
    x = batch_norm_act(net, x, "bn1", "relu6")
    for i, (stage, blocks) in enumerate(zip(stages, repeats(stages, depth, fixed_ends), strict=True)):
        for j in range(blocks):
            name, channels = f"blocks.{i}.{j}", _scaled(stage.channels, width)
            options = {"window": stage.window, "stride": stage.stride if j == 0 else 1, "activation": "relu6"}
            if stage.expansion == 1:
                x = depthwise_separable(net, x, name, channels, **options)
            else:
                x = inverted_residual(net, x, name, channels, expansion=stage.expansion, **options)
        net.module(f"blocks.{i}", x)
    net.module("blocks", x)
    x = net.conv2d(x, "conv_head", HEAD_CHANNELS if fixed_ends else _head_channels(width), window=1)
    features = batch_norm_act(net, x, "bn2", "relu6")
    x = net.flatten(select_pool(net, features, global_pool), "global_pool.flatten")
    return net.finish(
        net.linear(net.module("global_pool", x, "SelectAdaptivePool2d"), "classifier", num_classes), features
    )


def repeats(stages: tuple[Stage, ...], depth: float, fixed_ends: bool) -> list[int]:
    """The number of blocks of each stage."""
    ends = (0, len(stages) - 1) if fixed_ends else ()
    return [stage.blocks if i in ends else math.ceil(stage.blocks * depth) for i, stage in enumerate(stages)]


def torchvision_mobilenet_v2(num_classes: int, width_mult: float) -> Graph:
    """torchvision's mobilenet_v2: stem, blocks and head are one flat list, `features`."""
    net = Builder(kind="MobileNetV2")
    x = _conv_norm_relu6(net, net.input, "features.0", _scaled(STEM_CHANNELS, width_mult), window=3, stride=2)
    index = 1
    for stage in STAGES:
        for j in range(stage.blocks):
            channels, stride = _scaled(stage.channels, width_mult), stage.stride if j == 0 else 1
            x = _torchvision_block(net, x, f"features.{index}", stage.expansion, channels, stride)
            index += 1
    x = _conv_norm_relu6(net, x, f"features.{index}", _head_channels(width_mult), window=1)
    features = net.module("features", x)
    x = net.flatten(net.global_average_pool(features, "features:mean"), "features:flatten")
    x = net.linear(net.module("classifier.0", x, "Dropout"), "classifier.1", num_classes)
    return net.finish(net.module("classifier", x), features)


def _torchvision_block(net: Builder, x: Value, name: str, expansion: int, channels: int, stride: int) -> Value:
    """InvertedResidual: (N, C, H, W) -> (N, channels, H/s, W/s); without an expansion, `conv` has a step less."""
    shortcut, hidden, step = x, x.channels * expansion, 0
    if expansion != 1:
        x, step = _conv_norm_relu6(net, x, f"{name}.conv.0", hidden, window=1), 1
    x = _conv_norm_relu6(net, x, f"{name}.conv.{step}", hidden, window=3, stride=stride, groups=hidden)
    x = net.conv2d(x, f"{name}.conv.{step + 1}", channels, window=1)
    x = net.module(f"{name}.conv", net.batch_norm(x, f"{name}.conv.{step + 2}"))
    if stride == 1 and channels == shortcut.channels:
        x = net.residual(x, shortcut, name)
    return net.module(name, x, "InvertedResidual")


def _conv_norm_relu6(
    net: Builder, x: Value, name: str, channels: int, window: int, *, stride: int = 1, groups: int = 1
) -> Value:
    """torchvision's Conv2dNormActivation with ReLU6: (N, C, H, W) -> (N, channels, H/s, W/s)."""
    x = net.batch_norm(net.conv2d(x, f"{name}.0", channels, window, stride=stride, groups=groups), f"{name}.1")
    return net.module(name, net.activation(x, "relu6", f"{name}.2"), "Conv2dNormActivation")


def _scaled(channels: int, width: float) -> int:
    return make_divisible(channels * width)


def _head_channels(width: float) -> int:
    """The channels of the head: widths below 1 do not shrink it (section 6.1 of the paper)."""
    return make_divisible(HEAD_CHANNELS * max(1.0, width))


def _transformers_names() -> Iterator[tuple[str, str]]:
    """(HF transformers' name, timm's), as patterns; transformers has one list of all blocks but the first."""
    modules = {"conv_stem.first_conv": ("conv_stem", "bn1"), "conv_1x1": ("conv_head", "bn2")}
    modules |= {"conv_stem.conv_3x3": ("blocks.0.0.conv_dw", "blocks.0.0.bn1")}
    modules |= {"conv_stem.reduce_1x1": ("blocks.0.0.conv_pw", "blocks.0.0.bn2")}
    blocks = [f"blocks.{i}.{j}" for i, stage in enumerate(STAGES) if i for j in range(stage.blocks)]
    parts = {"expand_1x1": ("conv_pw", "bn1"), "conv_3x3": ("conv_dw", "bn2"), "reduce_1x1": ("conv_pwl", "bn3")}
    for index, block in enumerate(blocks):
        modules |= {f"layer.{index}.{part}": (f"{block}.{conv}", f"{block}.{bn}") for part, (conv, bn) in parts.items()}
    for module, (conv, bn) in modules.items():
        name = r"(?:mobilenet_v2\.)?" + re.escape(module)
        yield rf"{name}\.convolution\.(\w+)", rf"{conv}.\1"
        yield rf"{name}\.normalization\.(\w+)", rf"{bn}.\1"


TRANSFORMERS = Dialect(
    title="HF transformers' MobileNetV2",
    marker=r"(?:mobilenet_v2\.)?conv_stem\.first_conv\.convolution\.weight",
    names=tuple(_transformers_names()),
    settings=(
        Setting("tf_padding", True, "pad_type", {True: "same", False: ""}),
        Setting("layer_norm_eps", 1e-3, "bn_eps"),
        Setting("hidden_act", "relu6"),
        Setting("output_stride", 32),
        Setting("first_layer_is_expansion", True),
    ),
    preprocessing=Preprocessing(
        256, mean=(0.5,) * 3, std=(0.5,) * 3, source="the default of transformers' MobileNetV2"
    ),
)
TIMM = Preprocessing(resize=256, interpolation="bicubic")


def _timm(
    name: str, width: float, weights: str | None, *, depth: float = 1.0, fixed_ends: bool = False
) -> Architecture:
    arguments = {"num_classes": 1000, "width": width, "depth": depth, "fixed_ends": fixed_ends, **TORCH}
    scaled = f", depth x {depth:g}" if depth != 1 else ""
    description = f"MobileNetV2, width x {width:g}{scaled} (timm)"
    return Architecture(
        name, timm_mobilenetv2, arguments, TIMM, "imagenet1k", weights, description, "timm", (TRANSFORMERS,)
    )


MODELS = {
    model.name: model
    for model in (
        _timm("mobilenetv2_035", 0.35, None),
        _timm("mobilenetv2_050", 0.5, "hub:timm/mobilenetv2_050.lamb_in1k"),
        _timm("mobilenetv2_075", 0.75, None),
        _timm("mobilenetv2_100", 1.0, "hub:timm/mobilenetv2_100.ra_in1k"),
        _timm("mobilenetv2_110d", 1.1, "hub:timm/mobilenetv2_110d.ra_in1k", depth=1.2, fixed_ends=True),
        _timm("mobilenetv2_120d", 1.2, "hub:timm/mobilenetv2_120d.ra_in1k", depth=1.4, fixed_ends=True),
        _timm("mobilenetv2_140", 1.4, "hub:timm/mobilenetv2_140.ra_in1k"),
        Architecture(
            name="mobilenet_v2",
            build=torchvision_mobilenet_v2,
            arguments={"num_classes": 1000, "width_mult": 1.0},
            preprocessing=Preprocessing(resize=256),
            labels="imagenet1k",
            weights=None,
            description="MobileNetV2 with a width multiplier (torchvision)",
            library="torchvision",
        ),
    )
}
