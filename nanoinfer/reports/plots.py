"""A matplotlib figure (extra `plot`) and its file; errors that say what to do."""

from __future__ import annotations

import os

from ..errors import InputError, printable


def new_figure(width: float, height: float):
    """An empty figure of so many inches. InputError without matplotlib."""
    try:
        import matplotlib.figure
    except ImportError:
        raise InputError("a plot needs matplotlib: pip install matplotlib") from None
    return matplotlib.figure.Figure(figsize=(width, height), layout="constrained")


def save_figure(figure, path, **options) -> None:
    """Write a figure; the suffix of `path` is the format. InputError for none and for one unknown to matplotlib."""
    try:
        if not os.path.splitext(path)[1]:
            raise ValueError("has no suffix")
        figure.savefig(path, **options)
    except ValueError as error:
        raise InputError(f"{printable(path)}: {error}; name the plot .png, .svg or .pdf") from None
