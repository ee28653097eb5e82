"""The blocks from which timm makes MobileNetV2 and V3 (timm/models/_efficientnet_blocks.py), under timm's names.

Every function takes the builder, the input x (N, C, H, W) and the torch module's name, and returns the module's output.
`kind` is an activation of `Builder.activation`. Modules that do nothing in eval mode (drop, aa, drop_path) are named
as well, so that a hook on any of them finds its value.
"""

from __future__ import annotations

from ..graph import Builder, Value


def make_divisible(channels: float) -> int:
    """The nearest multiple of 8, never more than 10 % below `channels`; timm's and torchvision's rule."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def batch_norm_act(net: Builder, x: Value, name: str, kind: str | None = None) -> Value:
    """BatchNormAct2d: batch norm, then an activation inside the same module; a hook on it sees the activation."""
    x = net.batch_norm(x, name, eps=1e-5)
    net.module(f"{name}.drop", x)
    x = net.activation(x, kind, f"{name}.act") if kind else net.module(f"{name}.act", x)
    return net.module(name, x, "BatchNormAct2d")


def conv_bn_act(net: Builder, x: Value, name: str, channels: int, kind: str) -> Value:
    """ConvBnAct with a 1 x 1 window: the last block of MobileNetV3."""
    x = net.conv2d(x, f"{name}.conv", channels, window=1)
    x = net.module(f"{name}.aa", batch_norm_act(net, x, f"{name}.bn1", kind))
    return net.module(name, x, "ConvBnAct")


def squeeze_excite(net: Builder, x: Value, name: str) -> Value:
    """SqueezeExcite: every channel times a gate in 0..1, computed from the means of all channels."""
    y = net.global_average_pool(x, f"{name}:mean")
    y = net.conv2d(y, f"{name}.conv_reduce", make_divisible(x.channels / 4), window=1, bias=True)
    y = net.activation(y, "relu", f"{name}.act1")
    y = net.conv2d(y, f"{name}.conv_expand", x.channels, window=1, bias=True)
    gate = net.activation(y, "hard_sigmoid", f"{name}.gate")
    return net.module(name, net.scale(x, gate, name), "SqueezeExcite")


def depthwise_separable(
    net: Builder, x: Value, name: str, channels: int, *, window: int, stride: int, kind: str, squeeze: bool = False
) -> Value:
    """DepthwiseSeparableConv: depthwise, (squeeze-and-excite,) project; (N, C, H, W) -> (N, channels, H/s, W/s)."""
    shortcut = x
    x = net.conv2d(x, f"{name}.conv_dw", x.channels, window, stride=stride, groups=x.channels)
    x = net.module(f"{name}.aa", batch_norm_act(net, x, f"{name}.bn1", kind))
    x = squeeze_excite(net, x, f"{name}.se") if squeeze else net.module(f"{name}.se", x)
    x = net.conv2d(x, f"{name}.conv_pw", channels, window=1)
    x = batch_norm_act(net, x, f"{name}.bn2")
    return net.module(name, _residual(net, x, shortcut, name, stride), "DepthwiseSeparableConv")


def inverted_residual(
    net: Builder,
    x: Value,
    name: str,
    channels: int,
    *,
    expansion: float,
    window: int,
    stride: int,
    kind: str,
    squeeze: bool = False,
) -> Value:
    """InvertedResidual: expand, depthwise, (squeeze-and-excite,) project; (N, C, H, W) -> (N, channels, H/s, W/s)."""
    shortcut = x
    hidden = make_divisible(x.channels * expansion)
    x = net.conv2d(x, f"{name}.conv_pw", hidden, window=1)
    x = batch_norm_act(net, x, f"{name}.bn1", kind)
    x = net.conv2d(x, f"{name}.conv_dw", hidden, window, stride=stride, groups=hidden)
    x = net.module(f"{name}.aa", batch_norm_act(net, x, f"{name}.bn2", kind))
    x = squeeze_excite(net, x, f"{name}.se") if squeeze else net.module(f"{name}.se", x)
    x = net.conv2d(x, f"{name}.conv_pwl", channels, window=1)
    x = batch_norm_act(net, x, f"{name}.bn3")
    return net.module(name, _residual(net, x, shortcut, name, stride), "InvertedResidual")


def _residual(net: Builder, x: Value, shortcut: Value, name: str, stride: int) -> Value:
    """Add the block's input where shapes allow it."""
    if stride == 1 and x.channels == shortcut.channels:
        return net.residual(net.module(f"{name}.drop_path", x), shortcut, name)
    return x
