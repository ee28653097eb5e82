"""MobileNetV2 as M. Ardi's "MobileNetV2 Paper Walkthrough" builds it from the paper's table.

It differs from torchvision's mobilenet_v2 in three ways: channels are truncated, int(c * width), not rounded to
multiples of 8; the last convolution is scaled at every width; and the first block has an expansion convolution although
t = 1. That convolution has 32 x 32 weights and 64 of its batch norm, so there are 3,505,960 parameters instead of
torchvision's 3,504,872.
"""

from __future__ import annotations

from ..graph import Builder, Graph, Value
from .architecture import Architecture, Preprocessing
from .mobilenetv2 import HEAD_CHANNELS, STAGES, STEM_CHANNELS


def mobilenetv2_article(num_classes: int, width: float) -> Graph:
    """The walkthrough's MobileNetV2, for any input size; `width` is its WIDTH_MULTIPLIER."""
    net = Builder(kind="MobileNetV2")
    x = _conv(net, net.input, "first_conv", int(STEM_CHANNELS * width), window=3, stride=2)
    for i, stage in enumerate(STAGES):
        for j in range(stage.blocks):
            # A stage of one block is that block: inv_residual0.pwconv0, but inv_residual1.0.pwconv0.
            name = f"inv_residual{i}" if stage.blocks == 1 else f"inv_residual{i}.{j}"
            x = _block(net, x, name, stage.expansion, int(stage.channels * width), stage.stride if j == 0 else 1)
    features = _conv(net, x, "last_conv", int(HEAD_CHANNELS * width), window=1, stride=1)
    x = net.flatten(net.global_average_pool(features, "avgpool"), "avgpool:flatten")
    return net.finish(net.linear(net.module("dropout", x, "Dropout"), "fc", num_classes), features)


def _conv(net: Builder, x: Value, name: str, channels: int, window: int, stride: int) -> Value:
    """Conv: convolution, batch norm, ReLU6; (N, C, H, W) -> (N, channels, H/s, W/s)."""
    x = net.batch_norm(net.conv2d(x, f"{name}.conv", channels, window, stride=stride), f"{name}.bn")
    return net.module(name, net.activation(x, "relu6", f"{name}.relu6"), "Conv")


def _block(net: Builder, x: Value, name: str, t: int, channels: int, stride: int) -> Value:
    """InvResidualS1 or InvResidualS2: (N, C, H, W) -> (N, channels, H/s, W/s). Its one ReLU6 module runs twice."""
    shortcut, hidden = x, x.channels * t
    x = net.batch_norm(net.conv2d(x, f"{name}.pwconv0", hidden, window=1), f"{name}.bn_pwconv0")
    x = net.activation(x, "relu6", f"{name}.relu6")
    x = net.conv2d(x, f"{name}.dwconv", hidden, window=3, stride=stride, groups=hidden)
    x = net.activation(net.batch_norm(x, f"{name}.bn_dwconv"), "relu6", f"{name}.relu6")
    x = net.batch_norm(net.conv2d(x, f"{name}.pwconv1", channels, window=1), f"{name}.bn_pwconv1")
    # By the scaled channels: at a small width, two stages can have the same number.
    if stride == 1 and channels == shortcut.channels:
        x = net.residual(x, shortcut, name)
    return net.module(name, x, f"InvResidualS{stride}")


MODELS = {
    "mobilenetv2_article": Architecture(
        name="mobilenetv2_article",
        build=mobilenetv2_article,
        arguments={"num_classes": 1000, "width": 1.0},
        preprocessing=Preprocessing(resize=256),
        labels="imagenet1k",
        weights=None,
        description="MobileNetV2 of the paper walkthrough, any width and input size",
    ),
    "digits": Architecture(
        name="digits",
        build=mobilenetv2_article,
        arguments={"num_classes": 10, "width": 0.35},
        preprocessing=Preprocessing(resize=96, crop=(96, 96), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        labels="digits",
        weights="package:digits.safetensors",
        description="handwritten digits: mobilenetv2_article, width x 0.35, weights in the package",
    ),
}
