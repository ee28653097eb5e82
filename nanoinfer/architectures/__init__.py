"""The networks that nanoinfer knows, one file per family."""

from __future__ import annotations

from fnmatch import fnmatchcase

from ..errors import InputError, did_you_mean
from . import article, mobilenetv2, mobilenetv3, resnet, vit
from .architecture import Architecture, Preprocessing

__all__ = ["MODELS", "Architecture", "Preprocessing", "find_model", "list_models"]

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


def find_model(name: str) -> Architecture:
    """The row of MODELS called `name`; InputError, with the nearest names, if there is none."""
    if not isinstance(name, str) or name not in MODELS:
        hint = did_you_mean(str(name), MODELS, otherwise="'nanoinfer models' lists them")
        raise InputError(f"no model is called {name!r}; {hint}")
    return MODELS[name]
