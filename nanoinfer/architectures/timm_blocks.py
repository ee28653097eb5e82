"""The blocks of timm's MobileNetV2, V3 and EfficientNet-Lite (timm/models/_efficientnet_blocks.py), under timm's names.

Every function of a block takes the builder, the input x (N, C, H, W) and the torch module's name, and returns the
module's output. `activation` is an argument of `Builder.activation`. Modules that do nothing in eval mode (drop, aa,
drop_path) are recorded as well, so that a hook on any of them finds its value.
"""

from __future__ import annotations

from ..graph import Builder, Value
from ..graph.windows import SAME

# Arguments of every timm family, and their values for weights that were trained in torch or in TensorFlow.
TORCH = {"pad_type": "", "bn_eps": 1e-5, "global_pool": "avg"}
TENSORFLOW = {"pad_type": "same", "bn_eps": 1e-3, "global_pool": "avg"}


def make_divisible(channels: float) -> int:
    """The nearest multiple of 8 that is at least 8 and at least 90% of `channels`; timm's and torchvision's rule."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def timm_builder(kind: str, pad_type: str, bn_eps: float) -> Builder:
    """A builder whose convolutions pad by timm's `pad_type`: "" as torch does, or "same" as TensorFlow does.

    ValueError for any other.
    """
    if pad_type not in ("", "same"):
        raise ValueError(f"pad_type={pad_type!r}; it is '' or 'same'")
    return Builder(kind=kind, padding=SAME if pad_type else None, eps=bn_eps)


def select_pool(net: Builder, x: Value, pool: str) -> Value:
    """SelectAdaptivePool2d's `pool`: (N, C, H, W) -> (N, C, 1, 1), by "avg" or "max"; ValueError for any other."""
    if pool not in ("avg", "max"):
        raise ValueError(f"global_pool={pool!r}; it is 'avg' or 'max'")
    return (net.global_average_pool if pool == "avg" else net.global_max_pool)(x, "global_pool.pool")


def batch_norm_act(net: Builder, x: Value, name: str, activation: str | None = None) -> Value:
    """BatchNormAct2d: batch norm, then an activation inside the same module, so a hook sees the activation's output."""
    x = net.batch_norm(x, name)
    net.module(f"{name}.drop", x)
    x = net.activation(x, activation, f"{name}.act") if activation else net.module(f"{name}.act", x)
    return net.module(name, x, "BatchNormAct2d")


def conv_bn_act(net: Builder, x: Value, name: str, channels: int, activation: str) -> Value:
    """ConvBnAct with a 1 x 1 window, the last block of MobileNetV3: (N, C, H, W) -> (N, channels, H, W)."""
    x = net.conv2d(x, f"{name}.conv", channels, window=1)
    x = net.module(f"{name}.aa", batch_norm_act(net, x, f"{name}.bn1", activation))
    return net.module(name, x, "ConvBnAct")


def squeeze_excite(net: Builder, x: Value, name: str) -> Value:
    """SqueezeExcite: multiply each channel by a gate in 0..1, computed from the means of all channels."""
    y = net.global_average_pool(x, f"{name}:mean")
    y = net.conv2d(y, f"{name}.conv_reduce", make_divisible(x.channels / 4), window=1, bias=True)
    y = net.activation(y, "relu", f"{name}.act1")
    y = net.conv2d(y, f"{name}.conv_expand", x.channels, window=1, bias=True)
    gate = net.activation(y, "hard_sigmoid", f"{name}.gate")
    return net.module(name, net.scale(x, gate, name), "SqueezeExcite")


def depthwise_separable(
    net: Builder,
    x: Value,
    name: str,
    channels: int,
    *,
    window: int,
    stride: int,
    activation: str,
    squeeze: bool = False,
) -> Value:
    """DepthwiseSeparableConv: depthwise, (squeeze-and-excite,) project; (N, C, H, W) -> (N, channels, H/s, W/s)."""
    shortcut = x
    x = net.conv2d(x, f"{name}.conv_dw", x.channels, window, stride=stride, groups=x.channels)
    x = net.module(f"{name}.aa", batch_norm_act(net, x, f"{name}.bn1", activation))
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
    activation: str,
    squeeze: bool = False,
) -> Value:
    """InvertedResidual: expand, depthwise, (squeeze-and-excite,) project; (N, C, H, W) -> (N, channels, H/s, W/s)."""
    shortcut = x
    hidden = make_divisible(x.channels * expansion)
    x = net.conv2d(x, f"{name}.conv_pw", hidden, window=1)
    x = batch_norm_act(net, x, f"{name}.bn1", activation)
    x = net.conv2d(x, f"{name}.conv_dw", hidden, window, stride=stride, groups=hidden)
    x = net.module(f"{name}.aa", batch_norm_act(net, x, f"{name}.bn2", activation))
    x = squeeze_excite(net, x, f"{name}.se") if squeeze else net.module(f"{name}.se", x)
    x = net.conv2d(x, f"{name}.conv_pwl", channels, window=1)
    x = batch_norm_act(net, x, f"{name}.bn3")
    return net.module(name, _residual(net, x, shortcut, name, stride), "InvertedResidual")


def _residual(net: Builder, x: Value, shortcut: Value, name: str, stride: int) -> Value:
    """Add the block's input if the shapes are equal."""
    if stride == 1 and x.channels == shortcut.channels:
        return net.residual(net.module(f"{name}.drop_path", x), shortcut, name)
    return x
