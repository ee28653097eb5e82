"""ResNets that filter before they drop pixels, as timm defines them (timm/models/resnet.py).

Zhang, "Making Convolutional Networks Shift-Invariant Again", https://arxiv.org/abs/1904.11486. Names and shapes of the
tensors are those of `resnet`, since filters have no weights; where a plain ResNet has a stride, these have a stride of
1 and, behind the activation, a mean of 2 x 2 pixels (resnetaa*) or a 3 x 3 blur of stride 2 (resnetblur*).
"""

from __future__ import annotations

from ..graph import Builder, Graph, Value
from .architecture import Architecture, Preprocessing
from .resnet import STAGES, STEM_CHANNELS, checked_layers
from .timm_blocks import select_pool


def antialiased_resnet(
    num_classes: int, layers: tuple[int, ...], *, basic: bool, blur: bool, global_pool: str
) -> Graph:
    """timm's ResNet with an aa_layer: BlurPool2d if `blur`, or else AvgPool2d.

    `layers` gives the number of blocks of each stage, BasicBlock if `basic`, or else Bottleneck. Raises ValueError if
    it does not have four positive numbers.
    """
    net = Builder(kind="ResNet")
    x = net.batch_norm(net.conv2d(net.input, "conv1", STEM_CHANNELS, window=7, stride=2), "bn1")
    x = net.activation(x, "relu", "act1")
    if blur:
        x = net.max_pool2d(x, "maxpool.0", window=3, stride=1, padding=1)
        x = net.module("maxpool", net.blur_pool2d(x, "maxpool.1", stride=2))
    else:
        x = net.average_pool2d(x, "maxpool", window=2)
    block = _basic if basic else _bottleneck
    for i, (stage, blocks) in enumerate(zip(STAGES, checked_layers(layers), strict=True), start=1):
        for j in range(blocks):
            x = block(net, x, f"layer{i}.{j}", stage.channels, stage.stride if j == 0 else 1, blur)
        net.module(f"layer{i}", x)
    features = x
    x = net.flatten(select_pool(net, features, global_pool), "global_pool.flatten")
    return net.finish(net.linear(net.module("global_pool", x, "SelectAdaptivePool2d"), "fc", num_classes), features)


def _bottleneck(net: Builder, x: Value, name: str, width: int, stride: int, blur: bool) -> Value:
    """Bottleneck: 1 x 1 to `width`, 3 x 3, filter, 1 x 1 to 4 width; (N, C, H, W) -> (N, 4 width, H/s, W/s)."""
    y = net.batch_norm(net.conv2d(x, f"{name}.conv1", width, window=1), f"{name}.bn1")
    y = net.activation(y, "relu", f"{name}.act1")
    y = net.batch_norm(net.conv2d(y, f"{name}.conv2", width, 3), f"{name}.bn2")
    y = net.activation(net.module(f"{name}.drop_block", y), "relu", f"{name}.act2")
    y = _filtered(net, y, f"{name}.aa", stride, blur)
    y = net.batch_norm(net.conv2d(y, f"{name}.conv3", 4 * width, window=1), f"{name}.bn3")
    y = _sum(net, y, x, name, stride)
    return net.module(name, net.activation(y, "relu", f"{name}.act3"), "Bottleneck")


def _basic(net: Builder, x: Value, name: str, channels: int, stride: int, blur: bool) -> Value:
    """BasicBlock: 3 x 3, filter, 3 x 3; (N, C, H, W) -> (N, channels, H/s, W/s)."""
    y = net.batch_norm(net.conv2d(x, f"{name}.conv1", channels, 3), f"{name}.bn1")
    y = net.activation(net.module(f"{name}.drop_block", y), "relu", f"{name}.act1")
    y = _filtered(net, y, f"{name}.aa", stride, blur)
    y = net.batch_norm(net.conv2d(y, f"{name}.conv2", channels, 3), f"{name}.bn2")
    y = _sum(net, y, x, name, stride)
    return net.module(name, net.activation(y, "relu", f"{name}.act2"), "BasicBlock")


def _filtered(net: Builder, x: Value, name: str, stride: int, blur: bool) -> Value:
    """Every `stride`th pixel of x, filtered; x itself at stride 1."""
    if stride == 1:
        return net.module(name, x)
    return net.blur_pool2d(x, name, stride) if blur else net.average_pool2d(x, name, window=stride)


def _sum(net: Builder, y: Value, x: Value, name: str, stride: int) -> Value:
    """y + x; if shapes differ, x goes through a 1 x 1 convolution first, which is not filtered."""
    if stride != 1 or x.channels != y.channels:
        x = net.conv2d(x, f"{name}.downsample.0", y.channels, window=1, stride=stride)
        x = net.module(f"{name}.downsample", net.batch_norm(x, f"{name}.downsample.1"))
    return net.residual(y, x, f"{name}:add")


def _model(
    name: str, layers: tuple[int, ...], weights: str | None, resize: int, *, basic: bool = False, blur: bool = False
) -> Architecture:
    kind, rule = ("basic" if basic else "bottleneck"), ("blurs" if blur else "means")
    return Architecture(
        name=name,
        build=antialiased_resnet,
        arguments={"num_classes": 1000, "layers": layers, "basic": basic, "blur": blur, "global_pool": "avg"},
        preprocessing=Preprocessing(resize=resize, interpolation="bicubic"),
        labels="imagenet1k",
        weights=weights,
        description=f"ResNet of {sum(layers)} {kind} blocks, {rule} before strides (timm)",
        library="timm",
    )


MODELS = {
    model.name: model
    for model in (
        _model("resnetaa50", (3, 4, 6, 3), "hub:timm/resnetaa50.a1h_in1k", 235),
        _model("resnetblur18", (2, 2, 2, 2), None, 256, basic=True, blur=True),
        _model("resnetblur50", (3, 4, 6, 3), "hub:timm/resnetblur50.bt_in1k", 256, blur=True),
    )
}
