"""MobileNetV3 as timm defines it (timm/models/mobilenetv3.py:_gen_mobilenet_v3).

Howard et al., "Searching for MobileNetV3", https://arxiv.org/abs/1905.02244, tables 1 and 2. The tf_* models hold
TensorFlow's weights: they pad as TensorFlow does, and their batch norms have eps = 1e-3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..graph import Graph
from .architecture import Architecture, Preprocessing
from .timm_blocks import (
    TENSORFLOW,
    TORCH,
    batch_norm_act,
    conv_bn_act,
    depthwise_separable,
    inverted_residual,
    make_divisible,
    select_pool,
    timm_builder,
)


class Block(NamedTuple):
    """A row "bneck" of the paper's tables, with the paper's column in quotes."""

    window: int
    expanded: int  # "exp size"
    channels: int  # "#out"
    squeeze: bool  # "SE"
    activation: str  # "NL"
    stride: int  # "s"


RE, HS = "relu", "hard_swish"
TENSORFLOW_IMAGES = Preprocessing(resize=256, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
STEM_CHANNELS = 16  # 3 x 3, stride 2, hard swish; 224 x 224 -> 112 x 112

LARGE = (  # table 1; the tuples are timm's stages
    (Block(3, 16, 16, False, RE, 1),),  # 112 x 112 -> 112 x 112
    (
        Block(3, 64, 24, False, RE, 2),  # 112 x 112 -> 56 x 56
        Block(3, 72, 24, False, RE, 1),
    ),
    (
        Block(5, 72, 40, True, RE, 2),  # 56 x 56 -> 28 x 28
        Block(5, 120, 40, True, RE, 1),
        Block(5, 120, 40, True, RE, 1),
    ),
    (
        Block(3, 240, 80, False, HS, 2),  # 28 x 28 -> 14 x 14
        Block(3, 200, 80, False, HS, 1),
        Block(3, 184, 80, False, HS, 1),
        Block(3, 184, 80, False, HS, 1),
    ),
    (
        Block(3, 480, 112, True, HS, 1),  # 14 x 14 -> 14 x 14
        Block(3, 672, 112, True, HS, 1),
    ),
    (
        Block(5, 672, 160, True, HS, 2),  # 14 x 14 -> 7 x 7
        Block(5, 960, 160, True, HS, 1),
        Block(5, 960, 160, True, HS, 1),
    ),
)

SMALL = (  # table 2
    (Block(3, 16, 16, True, RE, 2),),  # 112 x 112 -> 56 x 56
    (
        Block(3, 72, 24, False, RE, 2),  # 56 x 56 -> 28 x 28
        Block(3, 88, 24, False, RE, 1),
    ),
    (
        Block(5, 96, 40, True, HS, 2),  # 28 x 28 -> 14 x 14
        Block(5, 240, 40, True, HS, 1),
        Block(5, 240, 40, True, HS, 1),
    ),
    (
        Block(5, 120, 48, True, HS, 1),  # 14 x 14 -> 14 x 14
        Block(5, 144, 48, True, HS, 1),
    ),
    (
        Block(5, 288, 96, True, HS, 2),  # 14 x 14 -> 7 x 7
        Block(5, 576, 96, True, HS, 1),
        Block(5, 576, 96, True, HS, 1),
    ),
)


def mobilenetv3_large(num_classes: int, width: float, minimal: bool, **options) -> Graph:
    """timm's mobilenetv3_large_*: the paper's large network; the arguments are those of `_build`."""
    return _build(LARGE, 960, 1280, num_classes=num_classes, width=width, minimal=minimal, **options)


def mobilenetv3_small(num_classes: int, width: float, minimal: bool, **options) -> Graph:
    """timm's mobilenetv3_small_*: the paper's small network; the arguments are those of `_build`."""
    return _build(SMALL, 576, 1024, num_classes=num_classes, width=width, minimal=minimal, **options)


def _build(
    stages,
    last_channels: int,
    head_channels: int,
    *,
    num_classes: int,
    width: float,
    minimal: bool,
    pad_type: str,
    bn_eps: float,
    global_pool: str,
) -> Graph:
    """Stem, blocks, 1 x 1 convolution to `last_channels`, mean over pixels, linear to `head_channels`, to classes.

    `width` scales all channels, but for the head's, and the stem's below width 0.75. A `minimal` network has 3 x 3
    windows and ReLU throughout, and no squeeze-and-excite. pad_type, bn_eps and global_pool mean what they mean in
    timm: `timm_blocks` has them.
    """
    net, inputs = timm_builder("MobileNetV3", pad_type, bn_eps), STEM_CHANNELS  # inputs: the block's at width 1
    activation = RE if minimal else HS
    x = net.conv2d(net.input, "conv_stem", inputs if width < 0.75 else make_divisible(inputs * width), 3, stride=2)
    x = batch_norm_act(net, x, "bn1", activation)
    for i, stage in enumerate(stages):
        for j, row in enumerate(stage):
            row = row._replace(window=3, squeeze=False, activation=RE) if minimal else row
            name, channels = f"blocks.{i}.{j}", make_divisible(row.channels * width)
            options = {"window": row.window, "stride": row.stride, "activation": row.activation, "squeeze": row.squeeze}
            if row.expanded == inputs:
                x = depthwise_separable(net, x, name, channels, **options)
            else:
                # timm keeps the paper's ratio at every width: hidden channels follow from the block's scaled inputs.
                x = inverted_residual(net, x, name, channels, expansion=row.expanded / inputs, **options)
            inputs = row.channels
        net.module(f"blocks.{i}", x)
    x = conv_bn_act(net, x, f"blocks.{len(stages)}.0", make_divisible(last_channels * width), activation)
    features = net.module("blocks", net.module(f"blocks.{len(stages)}", x))

    x = select_pool(net, features, global_pool)
    x = net.module("global_pool.flatten", x)  # an Identity: the head takes (N, C, 1, 1)
    x = net.module("global_pool", x, "SelectAdaptivePool2d")
    x = net.conv2d(x, "conv_head", head_channels, window=1, bias=True)
    x = net.activation(net.module("norm_head", x), activation, "act2")
    return net.finish(net.linear(net.flatten(x, "flatten"), "classifier", num_classes), features)


def _model(
    name: str, build: Callable[..., Graph], width: float, weights: str | None, *, minimal: bool = False
) -> Architecture:
    size = "large" if build is mobilenetv3_large else "small"
    form, tensorflow = ", minimal" if minimal else "", name.startswith("tf_")
    return Architecture(
        name=name,
        build=build,
        arguments={"num_classes": 1000, "width": width, "minimal": minimal, **(TENSORFLOW if tensorflow else TORCH)},
        preprocessing=TENSORFLOW_IMAGES if tensorflow else Preprocessing(resize=256, interpolation="bicubic"),
        labels="imagenet1k",
        weights=weights,
        description=f"MobileNetV3 {size}{form}, width x {width:g} (timm{', as TensorFlow' * tensorflow})",
        library="timm",
    )


def _tensorflow_model(
    name: str, build: Callable[..., Graph], width: float = 1.0, *, minimal: bool = False
) -> Architecture:
    return _model(name, build, width, f"hub:timm/{name}.in1k", minimal=minimal)


MODELS = {
    model.name: model
    for model in (
        _model("mobilenetv3_small_050", mobilenetv3_small, 0.5, "hub:timm/mobilenetv3_small_050.lamb_in1k"),
        _model("mobilenetv3_small_075", mobilenetv3_small, 0.75, "hub:timm/mobilenetv3_small_075.lamb_in1k"),
        _model("mobilenetv3_small_100", mobilenetv3_small, 1.0, "hub:timm/mobilenetv3_small_100.lamb_in1k"),
        _model("mobilenetv3_large_075", mobilenetv3_large, 0.75, None),
        _model("mobilenetv3_large_100", mobilenetv3_large, 1.0, "hub:timm/mobilenetv3_large_100.ra_in1k"),
        _tensorflow_model("tf_mobilenetv3_small_075", mobilenetv3_small, 0.75),
        _tensorflow_model("tf_mobilenetv3_small_100", mobilenetv3_small),
        _tensorflow_model("tf_mobilenetv3_small_minimal_100", mobilenetv3_small, minimal=True),
        _tensorflow_model("tf_mobilenetv3_large_075", mobilenetv3_large, 0.75),
        _tensorflow_model("tf_mobilenetv3_large_100", mobilenetv3_large),
        _tensorflow_model("tf_mobilenetv3_large_minimal_100", mobilenetv3_large, minimal=True),
    )
}
