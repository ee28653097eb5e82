"""README and documents: examples run, sample output is real, numbers and names are those of the code."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from nanoinfer.architectures import MODELS
from nanoinfer.cli import main
from nanoinfer.cli.parser import make_parser
from nanoinfer.reports.profile import COLUMNS, KIND_COLUMNS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))]
FOLDERS = ("nanoinfer", "kernels", "weights", "bench", "examples", "tests", "docs", ".ci")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Names in documents that are not in our sources: others' options, arguments and functions.
FOREIGN = {"njit", "True", "draft", "s3fs", "predict_batch_udf"}


def text(document="README.md"):
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(language, document="README.md"):
    """Fenced blocks of a language; "" are blocks without one, such as sample output."""
    return [block for name, block in FENCED.findall(text(document)) if name == language]


def spans(document):
    """What stands in single backticks outside of fenced blocks."""
    return re.findall(r"`([^`\n]+)`", FENCED.sub("", text(document)))


def files():
    """Names of the repository's files and folders, from its root."""
    paths = [path for folder in FOLDERS for path in (ROOT / folder, *(ROOT / folder).rglob("*"))]
    return {path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*"), *paths) if "__pycache__" not in path.parts}


def sources():
    """All words of our sources."""
    code = [path.read_text(encoding="utf-8") for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return {word for content in (*code, (ROOT / "setup.cfg").read_text()) for word in re.findall(r"\w+", content)}


def test_readme_examples_run(capsys):
    first, second = blocks("python")
    names = {}
    exec(compile(first, "README.md", "exec"), names)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11 and lines[-1] == "(2, 1000)"
    exec(compile(second, "README.md", "exec"), names)
    assert capsys.readouterr().out.splitlines() == re.findall(r"print\(.*\)  # (.+)", second)
    shown = next(block for block in blocks("") if block.startswith(">>> print(model.graph)"))
    assert str(names["model"].graph).startswith("\n".join(shown.splitlines()[1:-1]))


def test_readme_numbers_match_the_package():
    measured = json.loads((ROOT / "nanoinfer" / "data" / "digits.json").read_text())
    words = " ".join(text().split())
    assert f"{measured['correct']} of the {measured['total']} scans" in words
    assert f"({measured['accuracy']:.1%})" in words
    rows = re.findall(r"^\| `(\w+)` \| [a-z][^|]*\| ([\d,]+) \|", text(), re.MULTILINE)
    assert len(rows) == 9
    for name, count in rows:
        assert sum(int(np.prod(s)) for s in MODELS[name].graph().parameters.values()) == int(count.replace(",", ""))


def test_speed_ups_of_the_first_screen_are_those_of_the_table():
    ratios = re.findall(r"^\| `\w+` .* ([\d.]+)x \|$", text(), re.MULTILINE)
    assert len(ratios) == 16 + 12
    assert f"{min(ratios[:16])} to {max(ratios[:16])} times as fast" in text()
    assert f"On AVX2 it is {min(ratios[16:])} to {max(ratios[16:])} times as fast" in text()


def test_torch_versions_are_those_of_the_test_extra():
    settings = text("setup.cfg")
    pinned = re.findall(r"pip install (torch==\S+) (torchvision==\S+)", text())
    assert len(pinned) == 1
    for requirement in pinned[0]:
        assert re.search(rf"^ +{re.escape(requirement)}$", settings, re.MULTILINE)


def commands(document):
    """Command lines of nanoinfer in the fenced blocks of a document, as arguments."""
    lines = "\n".join(block for language in ("sh", "") for block in blocks(language, document)).splitlines()
    found = [re.match(r"(?:\$ |.*&& )?(?:\.venv/bin/)?nanoinfer (.*)", line) for line in lines]
    return [shlex.split(match[1], comments=True) for match in found if match]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_are_understood(document):
    for arguments in commands(document):
        end = arguments.index(">") if ">" in arguments else None
        assert callable(make_parser().parse_args(arguments[:end]).run), arguments


@pytest.mark.parametrize("command", ["inspect", "summary"])
def test_sample_output_is_what_the_command_prints(command, capsys):
    (sample,) = [block for block in blocks("") if block.startswith(f"$ nanoinfer {command} ")]
    first, *lines = sample.splitlines()
    assert main(shlex.split(first)[2:]) == 0
    printed = iter(line.rstrip() for line in capsys.readouterr().out.splitlines())
    for line in lines:  # "..." stands for any number of lines
        assert line == "..." or line in printed, line


def test_sample_profile_has_the_columns_of_a_profile():
    (sample,) = [block for block in blocks("") if block.startswith("$ nanoinfer profile ")]
    titles = [re.split(r" {2,}", line.strip()) for line in sample.splitlines() if re.search(r"GFLOP/s +GB/s", line)]
    assert titles == [[column.title for column in table if column.title] for table in (COLUMNS, KIND_COLUMNS)]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_exist(document):
    """In backticks, whole or from a folder on, and as targets of links."""
    known = files()
    paths = [span for span in spans(document) if re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", span)]
    paths = {path.rstrip("/") for path in paths if "/" in path or path.endswith((".py", ".md", ".cfg", ".toml"))}
    assert {path for path in paths if not any(f"/{name}".endswith(f"/{path}") for name in known)} == set()
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", text(document)) if "://" not in link}
    assert {link for link in links if not (ROOT / document).parent.joinpath(link).exists()} == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_identifiers_exist(document):
    words = sources()
    names = [span for span in spans(document) if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*(\(.*\))?", span)]
    names = {part for name in names for part in name.partition("(")[0].split(".")}
    names = {name for name in names if not re.search(r"_\d+x\d+", name)}  # kernels' names are made of their shapes
    assert names - words - FOREIGN - {Path(name).stem for name in files()} == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_modules_that_are_run_exist(document):
    for module in re.findall(r"python3? -m (bench\.\w+)", text(document)):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists(), module
