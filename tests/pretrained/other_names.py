"""State dicts under the names that other libraries give to the same tensors, written down apart from our tables."""

import re

import numpy as np

VIT_LAYER = {  # torchvision's name in an encoder layer: HF transformers' in files, and in modules of its version 5
    "ln_1": ("layernorm_before", "layernorm_before"),
    "self_attention.out_proj": ("attention.output.dense", "attention.o_proj"),
    "ln_2": ("layernorm_after", "layernorm_after"),
    "mlp.0": ("intermediate.dense", "mlp.fc1"),
    "mlp.3": ("output.dense", "mlp.fc2"),
}
VIT_REST = {
    "class_token": "vit.embeddings.cls_token",
    "encoder.pos_embedding": "vit.embeddings.position_embeddings",
    "conv_proj": "vit.embeddings.patch_embeddings.projection",
    "encoder.ln": "vit.layernorm",
    "heads.head": "classifier",
}
QKV = (("attention.attention.{}", ("query", "key", "value")), ("attention.{}_proj", ("q", "k", "v")))
MOBILENET_BLOCK = {  # timm's modules of an inverted residual
    **{"conv_pw": "expand_1x1.convolution", "bn1": "expand_1x1.normalization", "conv_dw": "conv_3x3.convolution"},
    **{"bn2": "conv_3x3.normalization", "conv_pwl": "reduce_1x1.convolution", "bn3": "reduce_1x1.normalization"},
}
MOBILENET_REST = {
    "conv_stem": "mobilenet_v2.conv_stem.first_conv.convolution",
    "bn1": "mobilenet_v2.conv_stem.first_conv.normalization",
    "blocks.0.0.conv_dw": "mobilenet_v2.conv_stem.conv_3x3.convolution",
    "blocks.0.0.bn1": "mobilenet_v2.conv_stem.conv_3x3.normalization",
    "blocks.0.0.conv_pw": "mobilenet_v2.conv_stem.reduce_1x1.convolution",
    "blocks.0.0.bn2": "mobilenet_v2.conv_stem.reduce_1x1.normalization",
    "conv_head": "mobilenet_v2.conv_1x1.convolution",
    "bn2": "mobilenet_v2.conv_1x1.normalization",
    "classifier": "classifier",
}
MOBILENET_BLOCKS = (1, 2, 3, 4, 3, 3, 1)  # of each stage


def transformers_vit(state, version=4):
    """torchvision's ViT under HF transformers' names; queries, keys and values lie apart, and names are sorted."""
    new = version == 5
    root, (pattern, parts) = ("vit.layers" if new else "vit.encoder.layer"), QKV[new]
    found = {}
    for name, array in state.items():
        module, _, role = name.rpartition(".")
        if match := re.fullmatch(r"encoder\.layers\.encoder_layer_(\d+)\.(.+)", name):
            layer, rest = f"{root}.{match[1]}", match[2]
            if fused := re.fullmatch(r"self_attention\.in_proj_(\w+)", rest):
                for part, piece in zip(parts, np.split(array, 3), strict=True):
                    found[f"{layer}.{pattern.format(part)}.{fused[1]}"] = piece
            else:
                module, _, role = rest.rpartition(".")
                found[f"{layer}.{VIT_LAYER[module][new]}.{role}"] = array
        elif name in VIT_REST:
            found[VIT_REST[name]] = array
        else:
            found[f"{VIT_REST[module]}.{role}"] = array
    return dict(sorted(found.items()))


def transformers_resnet(state):
    """torchvision's ResNet under HF transformers' names."""
    kinds = {"conv": "convolution", "bn": "normalization", "0": "convolution", "1": "normalization"}
    found = {}
    for name, array in state.items():
        if match := re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn)(\d)\.(\w+)", name):
            stage, layer, kind, part, role = match.groups()
            place = f"encoder.stages.{int(stage) - 1}.layers.{layer}.layer.{int(part) - 1}.{kinds[kind]}.{role}"
        elif match := re.fullmatch(r"layer(\d)\.(\d+)\.downsample\.(\d)\.(\w+)", name):
            stage, layer, part, role = match.groups()
            place = f"encoder.stages.{int(stage) - 1}.layers.{layer}.shortcut.{kinds[part]}.{role}"
        elif match := re.fullmatch(r"(conv|bn)1\.(\w+)", name):
            place = f"embedder.embedder.{kinds[match[1]]}.{match[2]}"
        else:
            found[name.replace("fc.", "classifier.1.")] = array
            continue
        found[f"resnet.{place}"] = array
    return dict(sorted(found.items()))


def transformers_mobilenet_v2(state):
    """timm's MobileNetV2 under HF transformers' names."""
    found = {}
    for name, array in state.items():
        module, _, role = name.rpartition(".")
        match = re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(\w+)", module)
        if module in MOBILENET_REST:
            found[f"{MOBILENET_REST[module]}.{role}"] = array
        else:
            index = sum(MOBILENET_BLOCKS[1 : int(match[1])]) + int(match[2])
            found[f"mobilenet_v2.layer.{index}.{MOBILENET_BLOCK[match[3]]}.{role}"] = array
    return dict(sorted(found.items()))
