"""Vision transformers as torchvision defines them (torchvision/models/vision_transformer.py).

Dosovitskiy et al., "An Image is Worth 16x16 Words", https://arxiv.org/abs/2010.11929, table 1.
"""

from __future__ import annotations

from ..graph import Builder, Graph, Value
from .architecture import Architecture, Preprocessing
from .dialect import Dialect, Setting


def vision_transformer(
    num_classes: int,
    image_size: int,
    patch_size: int,
    *,
    num_layers: int,
    hidden_dim: int,
    mlp_dim: int,
    num_heads: int,
    layer_norm_eps: float,
) -> Graph:
    """torchvision's VisionTransformer for square images of `image_size` pixels a side, and of no other size.

    `patch_size` is in pixels a side, the dimensions are features of a token, `layer_norm_eps` is that of every layer
    norm (1e-6 in torchvision). Raises ValueError if the image does not
    divide into patches, or the hidden dimension into heads.
    """
    if image_size % patch_size:
        raise ValueError(f"image_size={image_size} is not a multiple of the patch size {patch_size}")
    if hidden_dim % num_heads:
        raise ValueError(f"hidden_dim={hidden_dim} is not a multiple of num_heads={num_heads}")
    net = Builder(kind="VisionTransformer")
    class_token = net.parameter("class_token", 1, 1, hidden_dim)
    side = image_size // patch_size
    x = _patches(net, "conv_proj", hidden_dim, patch_size, (side, side))
    position = net.parameter("encoder.pos_embedding", 1, 1 + side * side, hidden_dim)
    x = net.module("encoder.dropout", net.tokens(x, class_token, position, "encoder.dropout"), "Dropout")
    for i in range(num_layers):
        x = _encoder_block(net, x, f"encoder.layers.encoder_layer_{i}", mlp_dim, num_heads, layer_norm_eps)
    net.module("encoder.layers", x)
    features = net.module("encoder", net.layer_norm(x, "encoder.ln", layer_norm_eps), "Encoder")
    x = net.linear(net.select_token(features, 0, "encoder:class_token"), "heads.head", num_classes)
    return net.finish(net.module("heads", x), features)


def _patches(net: Builder, name: str, hidden_dim: int, patch_size: int, patches: tuple[int, int]) -> Value:
    """The patch embedding, a convolution without overlap; `patches` (rows, columns) fixes the size of the image."""
    tensors = {"weight": net.parameter(f"{name}.weight", hidden_dim, net.input.channels, patch_size, patch_size)}
    tensors["bias"] = net.parameter(f"{name}.bias", hidden_dim)
    attributes = {"stride": patch_size, "padding": 0, "groups": 1, "patches": patches}
    return net.add("conv2d", [net.input], hidden_dim, name, tensors, **attributes)


def _encoder_block(net: Builder, x: Value, name: str, mlp_dim: int, num_heads: int, eps: float) -> Value:
    """EncoderBlock: (N, T, D) -> (N, T, D): attention, then an MLP, each behind a norm and within a residual."""
    attention = f"{name}.self_attention"
    y = net.layer_norm(x, f"{name}.ln_1", eps)
    names = {"weight": f"{attention}.in_proj_weight", "bias": f"{attention}.in_proj_bias"}
    y = net.linear(y, f"{attention}:in_proj", 3 * x.channels, **names)
    y = net.attention(y, num_heads, f"{attention}:heads")
    # self_attention computes the output projection itself; torch never calls its module out_proj.
    names = {"weight": f"{attention}.out_proj.weight", "bias": f"{attention}.out_proj.bias"}
    y = net.module(attention, net.linear(y, attention, x.channels, **names), "MultiheadAttention")
    y = net.module(f"{name}.dropout", y, "Dropout")
    x = net.residual(y, x, f"{name}:attended")

    y = net.layer_norm(x, f"{name}.ln_2", eps)
    y = net.activation(net.linear(y, f"{name}.mlp.0", mlp_dim), "gelu", f"{name}.mlp.1")
    y = net.linear(net.module(f"{name}.mlp.2", y, "Dropout"), f"{name}.mlp.3", x.channels)
    y = net.module(f"{name}.mlp", net.module(f"{name}.mlp.4", y, "Dropout"), "MLPBlock")
    return net.module(name, net.residual(x, y, name), "EncoderBlock")


# The files of torchvision's first release of these networks, which torchvision renames when it loads them
# (MLPBlock._load_from_state_dict).
TORCHVISION_V1 = Dialect(
    title="torchvision's first ViT files",
    marker=r"encoder\.layers\.encoder_layer_\d+\.mlp\.linear_[12]\.\w+",
    names=((r"(.*\.mlp)\.linear_1\.(\w+)", r"\1.0.\2"), (r"(.*\.mlp)\.linear_2\.(\w+)", r"\1.3.\2")),
)

_LAYER = r"(?:vit\.)?(?:encoder\.layer|layers)\.(\d+)"  # files hold the former; modules of transformers 5 are called so
_BLOCK = r"encoder.layers.encoder_layer_\1"
TRANSFORMERS = Dialect(
    title="HF transformers' ViT",
    marker=r"(?:vit\.)?embeddings\.patch_embeddings\.projection\.weight",
    names=(
        (r"(?:vit\.)?embeddings\.cls_token", "class_token"),
        (r"(?:vit\.)?embeddings\.position_embeddings", "encoder.pos_embedding"),
        (r"(?:vit\.)?embeddings\.patch_embeddings\.projection\.(\w+)", r"conv_proj.\1"),
        (rf"{_LAYER}\.layernorm_before\.(\w+)", rf"{_BLOCK}.ln_1.\2"),
        (rf"{_LAYER}\.attention\.(?:attention\.query|q_proj)\.(\w+)", rf"{_BLOCK}.self_attention.in_proj_\2[0]"),
        (rf"{_LAYER}\.attention\.(?:attention\.key|k_proj)\.(\w+)", rf"{_BLOCK}.self_attention.in_proj_\2[1]"),
        (rf"{_LAYER}\.attention\.(?:attention\.value|v_proj)\.(\w+)", rf"{_BLOCK}.self_attention.in_proj_\2[2]"),
        (rf"{_LAYER}\.attention\.(?:output\.dense|o_proj)\.(\w+)", rf"{_BLOCK}.self_attention.out_proj.\2"),
        (rf"{_LAYER}\.layernorm_after\.(\w+)", rf"{_BLOCK}.ln_2.\2"),
        (rf"{_LAYER}\.(?:intermediate\.dense|mlp\.fc1)\.(\w+)", rf"{_BLOCK}.mlp.0.\2"),
        (rf"{_LAYER}\.(?:output\.dense|mlp\.fc2)\.(\w+)", rf"{_BLOCK}.mlp.3.\2"),
        (r"(?:vit\.)?layernorm\.(\w+)", r"encoder.ln.\1"),
        (r"(?:vit\.)?pooler\.dense\.\w+", ""),  # of ViTModel, whose embedding would be tanh of a linear layer
        (r"classifier\.(\w+)", r"heads.head.\1"),
    ),
    settings=(
        Setting("layer_norm_eps", 1e-12, "layer_norm_eps"),
        Setting("num_attention_heads", None, "num_heads"),
        Setting("hidden_act", "gelu"),
        Setting("qkv_bias", True),
    ),
    preprocessing=Preprocessing(
        (224, 224), mean=(0.5,) * 3, std=(0.5,) * 3, crop_mode="squash", source="the default of transformers' ViT"
    ),
)


def _model(
    name: str, patch_size: int, num_layers: int, hidden_dim: int, mlp_dim: int, num_heads: int, *, resize: int = 256
) -> Architecture:
    return Architecture(
        name=name,
        build=vision_transformer,
        arguments={
            "num_classes": 1000,
            "image_size": 224,
            "patch_size": patch_size,
            "num_layers": num_layers,
            "hidden_dim": hidden_dim,
            "mlp_dim": mlp_dim,
            "num_heads": num_heads,
            "layer_norm_eps": 1e-6,
        },
        preprocessing=Preprocessing(resize=resize),
        labels="imagenet1k",
        weights=None,
        description=f"vision transformer, {num_layers} layers of {hidden_dim}, {patch_size} x {patch_size} patches "
        "(torchvision)",
        library="torchvision",
        dialects=(TORCHVISION_V1, TRANSFORMERS),
    )


MODELS = {
    model.name: model
    for model in (
        #               patch layers dim  mlp  heads   "Base" and "Large" of table 1
        _model("vit_b_16", 16, 12, 768, 3072, 12),
        _model("vit_b_32", 32, 12, 768, 3072, 12),
        _model("vit_l_16", 16, 24, 1024, 4096, 16, resize=242),
        _model("vit_l_32", 32, 24, 1024, 4096, 16),
    )
}
