"""The README: its example runs, and its numbers are those of the package."""

import json
import re
from pathlib import Path

import numpy as np

from nanoinfer.architectures import MODELS

ROOT = Path(__file__).parents[1]


def readme():
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", readme(), re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11 and lines[-1] == "(2, 1000)"


def test_readme_numbers_match_the_package():
    measured = json.loads((ROOT / "nanoinfer" / "data" / "digits.json").read_text())
    text = " ".join(readme().split())
    assert f"{measured['correct']} of the {measured['total']} scans" in text
    assert f"({measured['accuracy']:.1%})" in text
    rows = re.findall(r"^\| `(\w+)` \| [a-z][^|]*\| ([\d,]+) \|", readme(), re.MULTILINE)
    assert len(rows) == 7
    for name, count in rows:
        assert sum(int(np.prod(s)) for s in MODELS[name].graph().parameters.values()) == int(count.replace(",", ""))
