"""A checkup: sections of facts, and a line for each thing that is wrong."""

from __future__ import annotations

import json
import sysconfig
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from ..errors import InputError, printable

Facts = dict[str, object]  # by name; a name that ends in _bytes holds a size
WIDTH = 24  # columns of the names
SIZES = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "bytes": 1}
NO_COMPILER = "kernels have to be compiled here, and the compiler is not installed; run 'pip install numba llvmlite'"
PACKAGES = {"PIL": "pillow"}  # by module; others have the module's own name


@dataclass
class Checkup:
    """What sections found: {title: {name: value}}, and what is wrong, each a line that says what to do."""

    sections: dict[str, Facts] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        return "\n\n".join([*(section_text(*section) for section in self.sections.items()), self.verdict()])

    def verdict(self) -> str:
        """The last lines: what is wrong."""
        lines = ["wrong", *(f"  - {problem}" for problem in self.problems)] if self.problems else ["nothing is wrong"]
        return "\n".join(lines)

    def to_json(self) -> str:
        """One object: "healthy", "problems" and the sections by their titles."""
        return json.dumps({"healthy": self.healthy, "problems": self.problems, **self.sections}, indent=2)


def section_text(title: str, facts: Facts) -> str:
    """A section as people read it."""
    rows = (f"  {_label(name):{WIDTH}} {_text(name, value)}" for name, value in facts.items())
    return "\n".join([_label(title), *rows])


def examine(
    sections: Iterable[tuple[str, Callable[[Facts], Iterable[str]]]],
    done: Callable[[str, Facts], None] = lambda title, facts: None,
) -> Checkup:
    """Run sections, (title, function), one after another; `done` is called with what each has found.

    A function writes the facts that it finds into its argument and yields what is wrong. What it raises ends that
    section alone, and becomes a line, as do warnings.
    """
    checkup = Checkup()
    for title, section in sections:
        facts, problems = checkup.sections.setdefault(title, {}), []
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always", RuntimeWarning)
            try:
                for problem in section(facts):
                    problems.append(problem)  # one by one: those before a failure stay
            except Exception as error:
                problems.append(explain(title, error))
        problems += [str(item.message) for item in seen if issubclass(item.category, RuntimeWarning)]
        checkup.problems += [line for line in dict.fromkeys(problems) if line not in checkup.problems]
        done(title, facts)
    return checkup


def explain(what: str, error: Exception) -> str:
    """What a failure means, in one line; the same one wherever the compiler is missing."""
    if isinstance(error, InputError):
        absent = isinstance(error.__cause__, ModuleNotFoundError) and error.__cause__.name
        module = absent.partition(".")[0] if absent else ""
        if module and installed(module):
            return missing(module)
        return NO_COMPILER if module else printable(error, 1000)
    if isinstance(error, ModuleNotFoundError) and error.name:
        return missing(error.name.partition(".")[0])
    message = printable(str(error).strip().partition("\n")[0])
    return f"{_label(what)}: {type(error).__name__}: {message}; please report it, with all of this text"


def free_threaded() -> bool:
    """Whether this Python was built to run without the GIL."""
    return bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def missing(module: str) -> str:
    """What to do about a module that is not installed, in one line."""
    package = PACKAGES.get(module, module)
    if installed(package):
        return f"{package} {installed(package)} is incomplete; run 'pip install --force-reinstall {package}'"
    if free_threaded():
        return f"{package} is not installed, and may not exist for free-threaded Python; use an ordinary build of it"
    return f"{package} is not installed; run 'pip install {package}'"


def installed(package: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _label(name: str) -> str:
    return name.removesuffix("_bytes").replace("_", " ")


def _text(name: str, value: object) -> str:
    """A value as people read it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(key, item)}" for key, item in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text("", item) for item in value) or "-"
    if isinstance(value, int) and name.endswith("_bytes"):
        unit = next((unit for unit in ("GiB", "MiB", "KiB") if value >= SIZES[unit]), "bytes")
        return f"{value / SIZES[unit]:.4g} {unit}"
    return f"{value:,.1f}" if isinstance(value, float) else printable(value)
