"""ResNet, ResNeXt and Wide ResNet as torchvision defines them (torchvision/models/resnet.py).

He et al., "Deep Residual Learning for Image Recognition", https://arxiv.org/abs/1512.03385, table 1; Xie et al.,
"Aggregated Residual Transformations for Deep Neural Networks", https://arxiv.org/abs/1611.05431, table 1; Zagoruyko and
Komodakis, "Wide Residual Networks", https://arxiv.org/abs/1605.07146. As in torchvision, the 3 x 3 convolution of a
bottleneck takes the stride ("v1.5"), not the first 1 x 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..graph import Builder, Graph, Value
from .architecture import Architecture, Preprocessing
from .dialect import Dialect, Setting


class Stage(NamedTuple):
    """A row of the paper's table."""

    channels: int  # inside a block of the plain ResNet
    stride: int  # of the stage's first block


STEM_CHANNELS = 64  # 7 x 7, stride 2, then max pool 3 x 3, stride 2; 224 x 224 -> 112 x 112 -> 56 x 56
STAGES = (
    Stage(64, 1),  # 56 x 56 -> 56 x 56
    Stage(128, 2),  # 56 x 56 -> 28 x 28
    Stage(256, 2),  # 28 x 28 -> 14 x 14
    Stage(512, 2),  # 14 x 14 -> 7 x 7
)


def resnet_bottleneck(num_classes: int, layers: tuple[int, ...], groups: int, width_per_group: int) -> Graph:
    """torchvision's ResNet of Bottleneck blocks; `layers` gives the number of blocks of each stage.

    The 3 x 3 convolution has `groups` groups of `width_per_group` channels in the first stage, twice as many channels
    in each later stage. Raises ValueError if `layers` does not have four positive numbers.
    """

    def block(net, x, name, stage, stride):
        width = stage.channels * width_per_group // 64 * groups
        return _bottleneck(net, x, name, width, 4 * stage.channels, stride=stride, groups=groups)

    return _build(num_classes, layers, block)


def resnet_basic(num_classes: int, layers: tuple[int, ...]) -> Graph:
    """torchvision's ResNet of BasicBlock blocks; `layers` as for `resnet_bottleneck`."""
    return _build(num_classes, layers, lambda net, x, name, stage, s: _basic(net, x, name, stage.channels, s))


def checked_layers(layers: tuple[int, ...]) -> tuple[int, ...]:
    """`layers`, or ValueError if they are not a number of blocks for each stage."""
    if len(layers) != len(STAGES) or min(layers) < 1:
        raise ValueError(f"layers={layers} does not give a number of blocks for each of {len(STAGES)} stages")
    return layers


def _build(num_classes: int, layers: tuple[int, ...], block: Callable[..., Value]) -> Graph:
    """Stem, stages of `block(net, x, name, stage, stride)`, mean over pixels, linear."""
    net = Builder(kind="ResNet")
    x = net.batch_norm(net.conv2d(net.input, "conv1", STEM_CHANNELS, window=7, stride=2), "bn1")
    x = net.max_pool2d(net.activation(x, "relu", "relu"), "maxpool", window=3, stride=2, padding=1)
    for i, (stage, blocks) in enumerate(zip(STAGES, checked_layers(layers), strict=True), start=1):
        for j in range(blocks):
            x = block(net, x, f"layer{i}.{j}", stage, stage.stride if j == 0 else 1)
        net.module(f"layer{i}", x)
    features = x
    x = net.flatten(net.global_average_pool(features, "avgpool"), "avgpool:flatten")
    return net.finish(net.linear(x, "fc", num_classes), features)


def _bottleneck(net: Builder, x: Value, name: str, width: int, channels: int, *, stride: int, groups: int) -> Value:
    """Bottleneck: 1 x 1 to `width`, 3 x 3, 1 x 1 to `channels`; (N, C, H, W) -> (N, channels, H/s, W/s)."""
    y = net.batch_norm(net.conv2d(x, f"{name}.conv1", width, window=1), f"{name}.bn1")
    y = net.activation(y, "relu", f"{name}.relu")
    y = net.batch_norm(net.conv2d(y, f"{name}.conv2", width, 3, stride=stride, groups=groups), f"{name}.bn2")
    y = net.activation(y, "relu", f"{name}.relu")
    y = net.batch_norm(net.conv2d(y, f"{name}.conv3", channels, window=1), f"{name}.bn3")
    return net.module(name, _residual_relu(net, y, x, name, stride), "Bottleneck")


def _basic(net: Builder, x: Value, name: str, channels: int, stride: int) -> Value:
    """BasicBlock: two 3 x 3 convolutions; (N, C, H, W) -> (N, channels, H/s, W/s)."""
    y = net.batch_norm(net.conv2d(x, f"{name}.conv1", channels, 3, stride=stride), f"{name}.bn1")
    y = net.activation(y, "relu", f"{name}.relu")
    y = net.batch_norm(net.conv2d(y, f"{name}.conv2", channels, 3), f"{name}.bn2")
    return net.module(name, _residual_relu(net, y, x, name, stride), "BasicBlock")


def _residual_relu(net: Builder, y: Value, x: Value, name: str, stride: int) -> Value:
    """relu(y + x); if shapes differ, x goes through a 1 x 1 convolution first, which torch registers last."""
    if stride != 1 or x.channels != y.channels:
        x = net.conv2d(x, f"{name}.downsample.0", y.channels, window=1, stride=stride)
        x = net.module(f"{name}.downsample", net.batch_norm(x, f"{name}.downsample.1"))
    y = net.residual(y, x, f"{name}:add")
    return net.activation(y, "relu", f"{name}.relu")


def _transformers_names() -> Iterator[tuple[str, str]]:
    """(HF transformers' name, torchvision's), as patterns; transformers counts stages and convolutions from 0."""
    kinds = (("convolution", "conv"), ("normalization", "bn"))
    for kind, short in kinds:
        yield rf"(?:resnet\.)?embedder\.embedder\.{kind}\.(\w+)", rf"{short}1.\1"
    for stage in range(len(STAGES)):
        block = rf"(?:resnet\.)?encoder\.stages\.{stage}\.layers\.(\d+)"
        for number, (kind, short) in enumerate(kinds):
            yield rf"{block}\.shortcut\.{kind}\.(\w+)", rf"layer{stage + 1}.\1.downsample.{number}.\2"
            for part in range(3):
                yield rf"{block}\.layer\.{part}\.{kind}\.(\w+)", rf"layer{stage + 1}.\1.{short}{part + 1}.\2"
    yield r"classifier\.1\.(\w+)", r"fc.\1"


TRANSFORMERS = Dialect(
    title="HF transformers' ResNet",
    marker=r"(?:resnet\.)?embedder\.embedder\.convolution\.weight",
    names=tuple(_transformers_names()),
    settings=(
        Setting("hidden_act", "relu"),
        Setting("downsample_in_bottleneck", False),
        Setting("downsample_in_first_stage", False),
    ),
)


def _model(
    name: str, layers: tuple[int, ...], *, groups: int = 1, width_per_group: int = 64, resize: int = 256
) -> Architecture:
    grouped = f", {groups} groups" if groups > 1 else ""
    wide = f", {width_per_group // 64} x wider inside" if width_per_group > 64 else ""
    return Architecture(
        name=name,
        build=resnet_bottleneck,
        arguments={"num_classes": 1000, "layers": layers, "groups": groups, "width_per_group": width_per_group},
        preprocessing=Preprocessing(resize=resize),
        labels="imagenet1k",
        weights=f"hub:timm/{name}.tv_in1k",  # torchvision's own tensors, under torchvision's names
        description=f"ResNet of {sum(layers)} bottleneck blocks{grouped}{wide} (torchvision)",
        library="torchvision",
        dialects=(TRANSFORMERS,),
    )


def _basic_model(name: str, layers: tuple[int, ...]) -> Architecture:
    return Architecture(
        name=name,
        build=resnet_basic,
        arguments={"num_classes": 1000, "layers": layers},
        preprocessing=Preprocessing(resize=256),
        labels="imagenet1k",
        weights=f"hub:timm/{name}.tv_in1k",
        description=f"ResNet of {sum(layers)} basic blocks (torchvision)",
        library="torchvision",
        dialects=(TRANSFORMERS,),
    )


MODELS = {
    model.name: model
    for model in (
        _basic_model("resnet18", (2, 2, 2, 2)),
        _basic_model("resnet34", (3, 4, 6, 3)),
        _model("resnet50", (3, 4, 6, 3)),
        _model("resnet101", (3, 4, 23, 3)),
        _model("resnet152", (3, 8, 36, 3)),
        _model("resnext50_32x4d", (3, 4, 6, 3), groups=32, width_per_group=4),
        _model("resnext101_32x8d", (3, 4, 23, 3), groups=32, width_per_group=8),
        _model("resnext101_64x4d", (3, 4, 23, 3), groups=64, width_per_group=4, resize=232),
        _model("wide_resnet50_2", (3, 4, 6, 3), width_per_group=128),
        _model("wide_resnet101_2", (3, 4, 23, 3), width_per_group=128),
    )
}
