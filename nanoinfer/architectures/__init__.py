"""The networks that nanoinfer knows, one file per family."""

from __future__ import annotations

from fnmatch import fnmatchcase

from . import article, mobilenetv2, mobilenetv3, resnet, vit
from .architecture import Architecture, Preprocessing

__all__ = ["MODELS", "Architecture", "Preprocessing", "list_models"]

MODELS: dict[str, Architecture] = {
    **mobilenetv2.MODELS,
    **article.MODELS,
    **mobilenetv3.MODELS,
    **resnet.MODELS,
    **vit.MODELS,
}


def list_models(pattern: str = "*") -> list[str]:
    """Names that match a shell pattern ("mobilenet*"), family by family."""
    return [name for name in MODELS if fnmatchcase(name, pattern)]
