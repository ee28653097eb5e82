"""Dialects: the names that other libraries give to the tensors of one of our networks, as tables of replacements.

A dialect also says what its library computes where that is more than names: arguments of the network that differ, and
how images are prepared. A file in a dialect is computed as its library computes it, or it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from numbers import Real
from typing import NamedTuple

import numpy as np

from ..errors import InputError, printable
from ..preprocessing import Preprocessing

PART = re.compile(r"(.*)\[(\d)\]")


class Setting(NamedTuple):
    """What a library's config.json says about a network, and what that is to ours.

    key: its name there. default: what the library takes where the config does not say. argument: the argument of our
    network that takes its value; a setting without one has to be the default. values: the argument's value for each
    value of the setting, where these differ.
    """

    key: str
    default: object
    argument: str | None = None
    values: Mapping[object, object] | None = None


class Dialect(NamedTuple):
    """The names of one library for the tensors of one family.

    title: what a message calls them. marker: the pattern of a name that no file of ours has, and every file in this
    dialect. names: (pattern of a whole name, name here), of which the first that fits counts; a name that none fits
    stays as it is. Tensors whose new names end in "[0]", "[1]" ... are parts of one, in this order along its first
    axis; those whose new name is "" are left out. arguments: those of our network that compute what the library
    computes. settings: of the library's config.json, and what follows from them. preprocessing: what the library does
    where no file says it.
    """

    title: str
    marker: str
    names: tuple[tuple[str, str], ...]
    arguments: Mapping[str, object] = {}
    settings: tuple[Setting, ...] = ()
    preprocessing: Preprocessing | None = None


def spoken(dialects: tuple[Dialect, ...], names) -> Dialect | None:
    """The dialect that tensors of these names are in; None for the network's own names."""
    return next((dialect for dialect in dialects if any(re.fullmatch(dialect.marker, name) for name in names)), None)


def renamed(dialect: Dialect, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, list[str]]:
    """{our name: its names in a file of tensors of these shapes}, several where they are parts of one tensor.

    Where a new name is taken, or parts are missing or of different shapes, the old names stay, and so do not fit.
    """
    patterns = [(re.compile(pattern), name) for pattern, name in dialect.names]
    found, parts = {}, {}
    for old in shapes:
        new = _renamed(patterns, old)
        if part := PART.fullmatch(new):
            parts.setdefault(part[1], {})[int(part[2])] = old
        elif new in found or (new != old and new in shapes):
            found[old] = [old]
        elif new:
            found[new] = [old]
    for name, olds in parts.items():
        pieces = [olds[number] for number in sorted(olds)]
        alike = len({shapes[piece][1:] for piece in pieces}) == 1 and all(shapes[piece] for piece in pieces)
        whole = len(pieces) > 1 and sorted(olds) == list(range(len(pieces))) and name not in shapes
        found |= {name: pieces} if alike and whole else {piece: [piece] for piece in pieces}
    return found


def translated(dialect: Dialect, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays under our names, parts of a tensor as one."""
    names = renamed(dialect, {name: tuple(array.shape) for name, array in arrays.items()})
    return {
        new: np.concatenate([arrays[old] for old in olds]) if len(olds) > 1 else arrays[olds[0]]
        for new, olds in names.items()
    }


def translated_shapes(dialect: Dialect, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The same of shapes alone."""
    return {
        new: (sum(shapes[old][0] for old in olds), *shapes[olds[0]][1:]) if len(olds) > 1 else shapes[olds[0]]
        for new, olds in renamed(dialect, shapes).items()
    }


def left_out(dialect: Dialect, names) -> list[str]:
    """The names of tensors that a network of ours has no use for."""
    patterns = [(re.compile(pattern), name) for pattern, name in dialect.names]
    return [name for name in names if _renamed(patterns, name) == ""]


def _renamed(patterns: list[tuple[re.Pattern, str]], name: str) -> str:
    for pattern, new in patterns:
        if match := pattern.fullmatch(name):
            return match.expand(new)
    return name


def arguments_of(dialect: Dialect, config: Mapping | None, where: str) -> dict[str, object]:
    """Arguments of our network that compute what the dialect's library computes.

    `config` is its config.json, None without one; `where` names the weights in messages. Raises InputError for a
    setting that our network does not have.
    """
    arguments = dict(dialect.arguments)
    for key, default, argument, values in dialect.settings:
        value = (config or {}).get(key)
        value = default if value is None else value
        if values is not None:
            known = isinstance(value, (str, bool)) and value in values
        elif argument is None:
            known = type(value) is type(default) and value == default
        else:
            known = value is None or (isinstance(value, Real) and not isinstance(value, bool))
        if not known:
            said, taken = f"{key}={printable(repr(value), 40)}", " or ".join(map(repr, values or (default,)))
            raise InputError(
                f"{where}: its config.json says {said}, which nanoinfer does not compute; of {dialect.title} it takes "
                f"{key}={taken}"
            )
        if argument and value is not None:
            arguments[argument] = value if values is None else values[value]
    return arguments
