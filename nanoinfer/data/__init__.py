"""Files that ship inside the package: the class names, and the digits network with its ten sample images."""

from __future__ import annotations

from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent


def labels(name: str, count: int) -> list[str]:
    """`count` class names of label set "imagenet1k" or "digits".

    A network with another number of classes was trained for something else: its classes are "class 0", "class 1" ...
    """
    names = _names(name)
    return list(names) if len(names) == count else [f"class {index}" for index in range(count)]


@cache
def _names(name: str) -> tuple[str, ...]:
    if name == "digits":
        return tuple("0123456789")
    return tuple((FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines())
