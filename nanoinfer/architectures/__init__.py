"""The networks that nanoinfer knows: tables of the papers, and build functions that make graphs of them.

Read `architecture` first (the row of MODELS: build function, preprocessing, weights), then a family: `mobilenetv2` (the
table of the paper, as timm and torchvision build it), `article` (the same table as a walkthrough builds it, and the
digits network), `efficientnet_lite` (another table over the same blocks), `mobilenetv3`, `resnet`, `antialiased` (the
same with filters before strides), `vit`. `timm_blocks` holds the blocks that timm's MobileNets share, `dialect` what
other names files give to these tensors.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from ..errors import InputError, did_you_mean
from . import antialiased, article, efficientnet_lite, mobilenetv2, mobilenetv3, resnet, vit
from .architecture import Architecture, Preprocessing
from .dialect import Dialect, arguments_of, left_out, spoken, translated, translated_shapes

__all__ = [
    "MODELS",
    "Architecture",
    "Dialect",
    "Preprocessing",
    "arguments_of",
    "find_model",
    "left_out",
    "list_models",
    "spoken",
    "translated",
    "translated_shapes",
]

MODELS: dict[str, Architecture] = {
    **mobilenetv2.MODELS,
    **article.MODELS,
    **efficientnet_lite.MODELS,
    **mobilenetv3.MODELS,
    **resnet.MODELS,
    **antialiased.MODELS,
    **vit.MODELS,
}


def list_models(pattern: str = "*") -> list[str]:
    """Names of MODELS that match a shell pattern ("mobilenet*"), family by family."""
    return [name for name in MODELS if fnmatchcase(name, pattern)]


def find_model(name: str) -> Architecture:
    """The row of MODELS called `name`; InputError, which suggests the nearest names, if there is none."""
    if not isinstance(name, str) or name not in MODELS:
        hint = did_you_mean(str(name), MODELS, otherwise="'nanoinfer models' lists them")
        raise InputError(f"no model is called {name!r}; {hint}")
    return MODELS[name]
