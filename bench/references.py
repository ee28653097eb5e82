"""Torch reference models: what tests and benchmarks compare nanoinfer with.

`reference("resnext50_32x4d", seed=3)` gives a torch module in eval mode. The models are timm's and torchvision's own,
so that parameter names, shapes and arithmetic are theirs; only the walkthrough's MobileNetV2, which no library has,
is written down here. No pretrained weights are fetched: with a seed, `randomise` fills the module with values under
which a fault in any layer shows in the logits.
"""

import importlib
import math

import numpy as np
import torch
from torch import nn

from nanoinfer.architectures import MODELS
from nanoinfer.reports.torch_reference import import_torchvision

ARTICLE = "mobilenetv2_article"


def reference(name, seed=None, **arguments):
    """The torch module `name` in eval mode; every parameter and statistic random by `seed`, if one is given.

    `arguments` go to the library's own constructor (num_classes, width_mult, drop_rate ...); mobilenetv2_article takes
    width and num_classes. Without a seed the module keeps the library's initialisation, which depends on torch's
    global generator. The architecture says which library's definition is meant; ValueError where it names none.
    """
    if name == ARTICLE:
        module = ArticleMobileNetV2(**arguments)
    elif name not in MODELS or MODELS[name].library is None:
        raise ValueError(f"no library has a model {name!r} that nanoinfer has too")
    elif MODELS[name].library == "timm":
        import_torchvision()  # timm imports it, and would meet the missing operators
        module = importlib.import_module("timm").create_model(name, pretrained=False, **arguments)
    else:
        module = getattr(import_torchvision().models, name)(weights=None, **arguments)
    module.eval()
    return module if seed is None else randomise(module, seed)


def state_arrays(module):
    """{name: contiguous copy as ndarray} in state_dict order, without the training counter num_batches_tracked."""
    return {
        name: tensor.detach().cpu().numpy().copy(order="C")
        for name, tensor in module.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


# The walkthrough's MobileNetV2. Sandler et al., https://arxiv.org/abs/1801.04381, table 2, with the module names of
# M. Ardi's "MobileNetV2 Paper Walkthrough". It differs from torchvision's mobilenet_v2 in three ways: channels are
# truncated, int(c * width), not rounded to multiples of 8; the last convolution is scaled below width 1 too; and the
# first block has an expansion convolution although t = 1 (32 * 32 weights and 64 of its batch norm: 1,088 parameters).

ARTICLE_STAGES = (
    # t, channels, blocks, stride of the first block; output at 224 x 224
    (1, 16, 1, 1),  # 112 x 112
    (6, 24, 2, 2),  # 56 x 56
    (6, 32, 3, 2),  # 28 x 28
    (6, 64, 4, 2),  # 14 x 14
    (6, 96, 3, 1),  # 14 x 14
    (6, 160, 3, 2),  # 7 x 7
    (6, 320, 1, 1),  # 7 x 7
)


class ConvNormAct(nn.Module):
    """Convolution without bias, batch norm, ReLU6; padding keeps the size at stride 1."""

    def __init__(self, inputs, outputs, kernel, stride):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu6 = nn.ReLU6()

    def forward(self, x):
        return self.relu6(self.bn(self.conv(x)))


class InvertedResidual(nn.Module):
    """Expand to inputs * t channels, filter each on its own, project; (N, inputs, H, W) -> (N, outputs, H/s, W/s)."""

    def __init__(self, inputs, outputs, t, stride):
        super().__init__()
        hidden = inputs * t
        self.pwconv0 = nn.Conv2d(inputs, hidden, 1, bias=False)
        self.bn_pwconv0 = nn.BatchNorm2d(hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False)
        self.bn_dwconv = nn.BatchNorm2d(hidden)
        self.pwconv1 = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.bn_pwconv1 = nn.BatchNorm2d(outputs)
        self.relu6 = nn.ReLU6()
        # By the scaled counts. Stride 1 alone is no residual: stages 0, 4 and 6 begin with another channel count.
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        y = self.relu6(self.bn_pwconv0(self.pwconv0(x)))
        y = self.relu6(self.bn_dwconv(self.dwconv(y)))
        y = self.bn_pwconv1(self.pwconv1(y))
        return x + y if self.residual else y


class ArticleMobileNetV2(nn.Module):
    """(N, 3, H, W) -> logits (N, num_classes); any H and W. 3,505,960 parameters at width 1 with 1,000 classes."""

    def __init__(self, width=1.0, num_classes=1000):
        super().__init__()
        channels = int(32 * width)
        self.first_conv = ConvNormAct(3, channels, 3, 2)
        for index, (t, outputs, blocks, stride) in enumerate(ARTICLE_STAGES):
            stage = nn.ModuleList()
            for block in range(blocks):
                stage.append(InvertedResidual(channels, int(outputs * width), t, stride if block == 0 else 1))
                channels = int(outputs * width)
            # A stage of one block is that block: inv_residual0.pwconv0, but inv_residual1.0.pwconv0.
            setattr(self, f"inv_residual{index}", stage[0] if blocks == 1 else stage)
        self.last_conv = ConvNormAct(channels, int(1280 * width), 1, 1)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(int(1280 * width), num_classes)

    def forward(self, x):
        x = self.first_conv(x)
        for index in range(len(ARTICLE_STAGES)):
            stage = getattr(self, f"inv_residual{index}")
            for block in stage if isinstance(stage, nn.ModuleList) else (stage,):
                x = block(x)
        x = self.avgpool(self.last_conv(x))
        return self.fc(self.dropout(torch.flatten(x, 1)))


NORMS = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)


@torch.no_grad()
def randomise(module, seed):
    """Fill every parameter and batch norm statistic of `module` in place, by `seed` alone; returns the module.

    A fresh module hides faults: a batch norm with mean 0, variance 1, weight 1 and bias 0 folds rightly under a wrong
    rule, a zero head forgives every layer before it. Here nothing is zero or constant, and nothing fades or blows up:
    convolutions have He's scale sqrt(2 / fan_in), other matrices sqrt(1 / fan_in), norm weights are in 0.5..1.5, and
    batch norm statistics are those that the layer meets, off by a random share, as after training.
    """
    rng = np.random.default_rng(seed)
    training = module.training
    for layer in module.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            shape = tuple(parameter.shape)
            if isinstance(layer, NORMS) and name == "weight":
                values = rng.uniform(0.5, 1.5, shape)
            elif isinstance(layer, NORMS) or name.endswith("bias"):
                values = 0.2 * rng.standard_normal(shape, np.float32)
            elif parameter.ndim == 2 or isinstance(layer, nn.modules.conv._ConvNd):
                gain = 2.0 if parameter.ndim > 2 else 1.0
                values = np.float32(math.sqrt(gain / math.prod(shape[1:]))) * rng.standard_normal(shape, np.float32)
            else:  # tokens, position embeddings, layer scales
                values = 0.5 * rng.standard_normal(shape, np.float32)
            parameter.copy_(torch.from_numpy(np.asarray(values, np.float32)))
    measure_statistics(module.eval(), rng)
    return module.train(training)


def measure_statistics(module, rng):
    """Set running means and variances to what each batch norm meets for a random input, off by a random share.

    Statistics drawn without looking would let residual sums double from block to block. The pass runs in float64, so
    that after rounding to float32 the values do not depend on the machine's summation order.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    if not layers:
        return

    def measure(layer, inputs):
        variance, mean = (value.numpy() for value in torch.var_mean(inputs[0], (0, 2, 3), correction=0))
        # A channel that ReLU silenced has no variance; unbounded, its first sign of life would drown the others.
        variance = np.maximum(variance, 0.1 * variance.mean())
        mean = mean + 0.2 * np.sqrt(variance) * rng.standard_normal(mean.shape)
        # Rounded to float32 here: the layers below must meet the values that the module will keep.
        layer.running_mean.copy_(torch.from_numpy(mean.astype(np.float32)))
        layer.running_var.copy_(torch.from_numpy((variance * rng.uniform(0.5, 1.5, mean.shape)).astype(np.float32)))

    # Large enough that the last maps are not mostly padding: statistics from 2 x 2 pixels are far off at 224 x 224.
    fine = rng.standard_normal((2, 3, 192, 192))
    coarse = rng.standard_normal((2, 3, 8, 8)).repeat(24, axis=2).repeat(24, axis=3)  # images are not white noise
    hooks = [layer.register_forward_pre_hook(measure) for layer in layers]
    try:
        module.double()(torch.from_numpy((fine + coarse) * math.sqrt(0.5)))
    finally:
        module.float()
        for hook in hooks:
            hook.remove()
