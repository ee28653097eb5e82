"""Versions: nanoinfer, Python, the packages that it needs, and those that some commands can use."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires

from .. import __version__
from ..errors import printable
from .checkup import PACKAGES, Facts, free_threaded, installed, missing

MODULES = {package: module for module, package in PACKAGES.items()}
COMPILERS = ("numba", "llvmlite")
REQUIRED = ("numpy", *COMPILERS, "safetensors", "pillow", "rich")
OPTIONAL = ("huggingface_hub", "fsspec", "aiohttp", "pyarrow", "ray", "matplotlib", "torch", "torchvision", "timm")


def software(facts: Facts) -> Iterator[str]:
    """Versions; wrong is a package that is too old, that is absent or that cannot be imported.

    Compilers may be absent: the self-test says whether that matters.
    """
    facts["nanoinfer"] = __version__
    facts["python"] = f"{platform.python_version()} {platform.python_implementation()}"
    facts["free_threaded"] = free_threaded()
    if free_threaded():
        facts["gil_enabled"] = getattr(sys, "_is_gil_enabled", lambda: True)()
        facts["tested"] = "no: nanoinfer makes no promise on free-threaded Python"
    lower = lower_ends()
    for package in REQUIRED:
        facts[package] = found = installed(package)
        if found is None:
            if package not in COMPILERS:
                yield missing(package)
            continue
        if _numbers(found) < _numbers(lower.get(package, "0")):
            yield f"{package} {found} is older than {lower[package]}; run 'pip install --upgrade {package}'"
        if import_problem(package):
            yield import_problem(package)
    present = {package: installed(package) for package in OPTIONAL}
    facts["optional"] = {package: found for package, found in present.items() if found}
    facts["absent"] = [package for package, found in present.items() if not found]


@cache
def import_problem(package: str) -> str:
    """Why a package that is installed cannot be imported, and what to do, in one line; "" if it can."""
    try:
        import_module(MODULES.get(package, package))
    except PermissionError:  # Numba, where no memory may become executable; the section of kernels says so
        return ""
    except ModuleNotFoundError as error:
        return missing((error.name or package).partition(".")[0])
    except Exception as error:
        text = printable(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
        return (
            f"{package} {installed(package)} cannot be imported ({text}); run 'pip install --force-reinstall {package}'"
        )
    return ""


def lower_ends() -> dict[str, str]:
    """{package: the oldest version that nanoinfer takes}, as its own installation says."""
    try:
        lines = requires("nanoinfer") or []
    except PackageNotFoundError:  # run from a folder
        return {}
    matches = [re.fullmatch(r"([\w-]+)>=([\d.]+)", line.replace(" ", "")) for line in lines]
    return {match[1].lower(): match[2] for match in matches if match}


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)[:3]))
