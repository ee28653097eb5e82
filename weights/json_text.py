"""JSON from outside: headers, indexes and configurations, whose size and numbers are limited before they are parsed."""

from __future__ import annotations

import json

MAX_BYTES = 4 * 2**20  # the header of 1,000 tensors has about 100 kB; a config.json with 21,841 labels 1.5 MB
_MAX_DIGITS = 20  # of a whole number: as many as those of 64 bits have


def parse_object(text: bytes, unique: bool = True) -> dict:
    """The JSON object in `text`. ValueError, whose message is one short phrase, if there is none or it is too large.

    With `unique`, a name may not appear twice in an object, since readers differ in which of two they take.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"it has {len(text)} bytes, more than the limit of {MAX_BYTES}")
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique if unique else None, parse_int=_number)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"it is a {type(value).__name__}, not an object")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"the name {twice!r} appears twice")
    return table


def _number(digits: str) -> int:
    """A whole number. The time to convert one, or to print it, grows with the square of its digits."""
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"it holds a number of {len(digits)} digits")
    return int(digits)
