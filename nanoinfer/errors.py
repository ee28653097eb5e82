"""The error that a user can act on, and what its message is made of."""

import re


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line (grouped lists of tensors may follow on further lines), names the input, says what is
    wrong with it and what to do next. The command line prints it as it is and exits with 2.
    """


def is_seed(text):
    """Whether the text behind "random:" is a seed: a whole number of up to 18 digits, or nothing."""
    return re.fullmatch("[0-9]{0,18}", text) is not None


def damaged(path, problem):
    """The error of a file that does not hold what its format promises."""
    return InputError(f"{shown(path)}: {problem}; the file is damaged: download or save it again")


def shown(value, limit=160):
    """``value`` (a path, a tensor name) as it stands in a message: one printable line of at most ``limit`` characters.

    Names come out of files that may be damaged or hostile, so a line break or a control character is escaped.
    """
    text = str(value)
    if not text.isprintable():
        text = ascii(text)[1:-1]
    half = (limit - 3) // 2  # the end of a path says as much as its beginning
    return text if len(text) <= limit else f"{text[:half]}...{text[-half:]}"
