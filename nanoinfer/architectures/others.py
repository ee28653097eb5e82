"""Networks and files that are not ours, told by the names of their tensors: for messages alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

MOST_NAMES = 10_000  # that are looked at


class Other(NamedTuple):
    """title: what a message calls it. names: patterns of whole names, all of which such a file has.

    shapes: of some tensors. without: the pattern of a name that no such file has. kin: whether one of our networks has
    these names, too, so that it is one in other sizes.
    """

    title: str
    names: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]] = {}
    without: str = ""
    kin: bool = False


# Tan and Le, table 1 and the scaling of each: channels of the stem, of the last stage and of the head.
EFFICIENTNETS = (
    *((32, 320, 1280), (32, 320, 1280), (32, 352, 1408), (40, 384, 1536), (48, 448, 1792), (48, 512, 2048)),
    *((56, 576, 2304), (64, 640, 2560)),
)
_SE = {
    "timm": ("conv_stem.weight", "conv_head.weight", r"blocks\.1\.{}\.se\.conv_reduce\.weight"),
    "torchvision": ("features.0.0.weight", "features.8.0.weight", r"features\.2\.{}\.block\.2\.fc1\.weight"),
    "efficientnet_pytorch": ("_conv_stem.weight", "_conv_head.weight", r"_blocks\.{}\._se_reduce\.weight"),
}


def _efficientnets() -> list[Other]:
    """B7 to B0 of each library: B1 has B0's channels and more blocks, so it comes first."""
    rows = []
    for number in reversed(range(len(EFFICIENTNETS))):
        stem, last, head = EFFICIENTNETS[number]
        for library, (first, conv_head, block) in _SE.items():
            index = 22 if library == "efficientnet_pytorch" else 2
            names = block.format(index if number == 1 else 1)
            shapes = {first: (stem, 3, 3, 3), conv_head: (head, last, 1, 1)}
            rows.append(Other(f"EfficientNet-B{number} of {library}", (names,), shapes))
    return rows


OTHERS = (  # the first that fits counts
    *_efficientnets(),
    Other("a detector of torchvision, such as Faster R-CNN", (r"backbone\.body\..+", r"head\..+|rpn\..+")),
    Other("a segmentation network of torchvision", (r"backbone\.conv1\.weight", r"classifier\.\d+\..+")),
    Other("a YOLO of Ultralytics", (r"(model\.)*0\.conv\.weight", r"(model\.)*\d+\.(cv2|dfl)\..+")),
    Other("a LoRA adapter", (r".*\.lora_(A|down)\..+",)),
    Other("Stable Diffusion", (r"(model\.)?diffusion_model\..+",)),
    Other("SAM", (r"image_encoder\.blocks\..+", r"mask_decoder\..+")),
    Other("OpenAI's CLIP", (r"visual\.(transformer\.resblocks|layer1)\..+", r"(text\.)?token_embedding\.weight")),
    Other("HF transformers' CLIP", (r"vision_model\.embeddings\..+",)),
    Other("HF transformers' DeiT", (r"(deit\.)?embeddings\.distillation_token",)),
    Other("HF transformers' BEiT", (r"beit\.embeddings\..+",)),
    Other("HF transformers' DINOv2", (r"(dinov2\.)?encoder\.layer\.\d+\.layer_scale1\.lambda1",)),
    Other("HF transformers' Swin", (r"(swin(v2)?\.)?encoder\.layers\.0\.blocks\.0\.attention\..+",)),
    Other("HF transformers' ConvNeXt", (r"(convnext(v2)?\.)?encoder\.stages\.0\.layers\.0\.dwconv\.weight",)),
    Other("HF transformers' MobileNetV1", (r"(mobilenet_v1\.)?layer\.0\.convolution\.weight",)),
    Other("HF transformers' EfficientNet", (r"(efficientnet\.)?encoder\.blocks\.0\.depthwise_conv\..+",)),
    Other("a language model of HF transformers", (r"(model\.)?layers\.0\.self_attn\.q_proj\.weight",)),
    Other("HF transformers' BERT", (r"(bert\.)?encoder\.layer\.0\.attention\.self\.query\.weight",)),
    Other("timm's distilled DeiT", ("dist_token", r"blocks\.0\.attn\.qkv\.weight")),
    Other("a masked autoencoder", ("mask_token", r"decoder_blocks\.0\..+")),
    Other("DINOv2", (r"blocks\.0\.ls1\.gamma", "cls_token")),
    Other("timm's BEiT", (r"blocks\.0\.gamma_1", "cls_token")),
    Other("timm's vision transformer", (r"blocks\.0\.attn\.qkv\.weight", r"patch_embed\.proj\.weight")),
    Other("timm's MLP-Mixer", (r"blocks\.0\.mlp_tokens\.fc1\.weight",)),
    Other("timm's Swin", (r"layers\.0\.blocks\.0\.attn\..+", r"patch_embed\.proj\.weight")),
    Other("timm's ConvNeXt", (r"stages\.0\.blocks\.0\.conv_dw\.weight", r"stem\.0\.weight")),
    Other("timm's RegNet", (r"s1\.b1\.conv1\.conv\.weight",)),
    Other("timm's ResNetV2", (r"stages\.0\.blocks\.0\.conv1\.weight", r"stem\.conv\.weight")),
    Other("timm's GhostNet", (r"blocks\.0\.0\.ghost1\..+",)),
    Other("a SENet of timm's ResNet kind", (r"layer1\.0\.se\..+", r"conv1(\.0)?\.weight")),
    Other("a Res2Net", (r"layer1\.0\.convs\.0\.weight",)),
    Other("a ResNet with a deep stem (timm's resnet*d and its like)", (r"conv1\.6\.weight", r"layer1\.0\..+")),
    Other("an HRNet", (r"stage4\.0\.branches\.0\..+",)),
    Other(
        "a ResNet without running means, such as timm's resnet*_gn",
        ("conv1.weight", r"layer4\.0\.conv1\.weight"),
        without=r".*running_mean",
    ),
    Other("a video ResNet of torchvision", (r"stem\.0\.weight", r"layer1\.0\.conv1\.0\.weight")),
    Other("torchvision's ConvNeXt", (r"features\.1\.0\.layer_scale",)),
    Other("torchvision's Swin", (r"features\.1\.0\.attn\..+",)),
    Other("torchvision's MobileNetV3", (r"features\.1\.block\.0\.0\.weight", r"classifier\.3\.weight")),
    Other("torchvision's EfficientNet", (r"features\.1\.0\.block\.0\.0\.weight",)),
    Other("torchvision's SqueezeNet", (r"features\.3\.squeeze\.weight",)),
    Other("torchvision's MNASNet", (r"layers\.8\.0\.layers\.0\.weight",)),
    Other("torchvision's RegNet", (r"trunk_output\.block1\..+",)),
    Other("torchvision's MaxViT", (r"blocks\.0\.layers\.0\.layers\.MBconv\..+",)),
    Other("ShuffleNet", (r"stage2\.0\.branch1\.0\.weight",)),
    Other("DenseNet", (r"features\.denseblock1\.denselayer1\..+",)),
    Other("GoogLeNet", (r"inception3a\..+",)),
    Other("Inception-v3", (r"Mixed_5b\..+",)),
    Other("VGG or AlexNet", (r"features\.0\.weight", r"classifier\.6\.weight|head\.fc\.weight")),
    *(
        Other(title, names, kin=True)
        for title, names in (
            (
                "a ViT of HF transformers of another size",
                (r"(vit\.)?embeddings\.patch_embeddings\.projection\.weight",),
            ),
            ("a ResNet of HF transformers of another size", (r"(resnet\.)?embedder\.embedder\.convolution\.weight",)),
            ("a MobileNetV2 of HF transformers of another kind", (r"(mobilenet_v2\.)?conv_stem\.first_conv\..+",)),
            ("a vision transformer of torchvision of another size", (r"encoder\.layers\.encoder_layer_0\..+",)),
            ("a network of timm's EfficientNet kind", ("conv_stem.weight", r"blocks\.0\.0\..+")),
            ("a ResNet of another size", ("conv1.weight", r"layer4\.0\.conv1\.weight", "fc.weight")),
        )
    ),
)


def other_title(shapes: Mapping[str, tuple[int, ...]], *, kin: bool) -> str | None:
    """What a file of tensors of these names and shapes is, None if no row of OTHERS fits; those of `kin` if asked."""
    names = list(shapes)[:MOST_NAMES]

    def has(pattern: str) -> bool:
        return any(re.fullmatch(pattern, name) for name in names)

    for other in OTHERS:
        if other.kin and not kin:
            continue
        sized = all(shapes.get(name) == shape for name, shape in other.shapes.items())
        if sized and all(map(has, other.names)) and not (other.without and has(other.without)):
            return other.title
    return None
