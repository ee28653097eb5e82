"""The error that a user can act on, and what its message is made of."""

from __future__ import annotations

from collections.abc import Iterable

MOST_DETAILS = 10  # lines of a message, unless all are asked for


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line, names the input, says what is wrong with it and what to do next. The command line prints
    it as it is and exits with 2. `details` are further lines, such as tensors: the message ends with the first ten of
    them, and `full` is the message with all.
    """

    def __init__(self, message: str = "", details: Iterable[str] = ()):
        details = [*details]
        more = [f"  ... and {len(details) - MOST_DETAILS} more, which -v lists"] if len(details) > MOST_DETAILS else []
        super().__init__("\n".join([message, *details[:MOST_DETAILS], *more]))
        self.full = "\n".join([message, *details])


def damaged(path, problem: str) -> InputError:
    """The error of a file that does not hold what its format promises."""
    return InputError(f"{printable(path)}: {problem}; the file is damaged: download or save it again")


def printable(value, limit: int = 160) -> str:
    """`value` (a path, a tensor name) as it stands in a message: one printable line of at most `limit` characters.

    Names come out of files that may be damaged or hostile, so a line break or a control character is escaped.
    """
    text = str(value)
    if not text.isprintable():
        text = ascii(text)[1:-1]
    half = (limit - 3) // 2  # the end of a path says as much as its beginning
    return text if len(text) <= limit else f"{text[:half]}...{text[-half:]}"


def without_escapes(text: str) -> str:
    """`text` for a file that people also read in a terminal: a character that a terminal obeys becomes \\xNN.

    Line breaks and tabs stay.
    """
    return text.translate(_ESCAPED)


_ESCAPED = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def did_you_mean(name: str, known: Iterable[str], otherwise: str, count: int = 3) -> str:
    """The second half of a message about an unknown name: up to `count` near ones of `known`, or else `otherwise`."""
    from difflib import get_close_matches  # here, since it takes a millisecond of every start

    nearest = get_close_matches(name, list(known), count, 0.4)
    return f"did you mean {', '.join(nearest)}?" if nearest else otherwise
