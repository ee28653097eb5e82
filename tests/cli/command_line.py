"""The checks and processes that tests of the command line share."""

import subprocess
import sys
from pathlib import Path

from nanoinfer.data import FOLDER

ROOT = Path(__file__).parents[2]
SAMPLES = sorted((FOLDER / "digits").glob("*.png"))


def refused(result, *parts):
    """Check that a command printed one line of error with `parts` in it, and nothing else; returns the line."""
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith("nanoinfer: ") and err.count("\n") == 1 and err.endswith("\n"), err
    for part in parts:
        assert part in err
    return err


def process(*arguments, **options):
    """A finished `python -m nanoinfer`."""
    command = [sys.executable, "-m", "nanoinfer", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, cwd=ROOT, timeout=300, **{"text": True, **options})
