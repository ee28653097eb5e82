"""The checkup's sections, one by one: text, JSON, and what each calls wrong."""

import json
import warnings

import numpy as np
import PIL
import pytest

from nanoinfer import cgroups
from nanoinfer.doctor import computer, engine, software
from nanoinfer.doctor.checkup import Checkup, examine, missing
from nanoinfer.doctor.fingerprints import NETWORKS, expected
from nanoinfer.errors import InputError
from nanoinfer.machine import memory


def problems_of(section, **options):
    """(facts, problems) of one section."""
    checkup = examine([("it", lambda facts: section(facts, **options))])
    return checkup.sections["it"], checkup.problems


def fails(error):
    def section(facts):
        facts["before"] = 1
        yield "it hurts; rest"
        raise error

    return section


def test_text_and_json_hold_the_same():
    facts = {"size_bytes": 3 << 20, "used": True, "rates": [1.5, 2.0], "parts": {"a_b": "1"}, "none": None, "no": {}}
    checkup = Checkup({"one_thing": facts}, ["it hurts; rest"])
    text = str(checkup).splitlines()
    assert text[0] == "one thing" and text[-2:] == ["wrong", "  - it hurts; rest"]
    values = [line[27:] for line in text[1:7]]
    assert values == ["3 MiB", "yes", "1.5, 2.0", "a_b 1", "-", "-"]
    assert json.loads(checkup.to_json()) == {"healthy": False, "problems": ["it hurts; rest"], "one_thing": facts}
    assert str(Checkup()) == "nothing is wrong"


def test_a_package_that_cannot_be_imported(monkeypatch, tmp_path):
    (tmp_path / "broken_package.py").write_text("raise ImportError('Numba needs NumPy 2.4 or less')")
    (tmp_path / "needy_package.py").write_text("import absent_package")
    monkeypatch.syspath_prepend(tmp_path)
    assert software.import_problem("broken_package") == (
        "broken_package None cannot be imported (ImportError: Numba needs NumPy 2.4 or less); "
        "run 'pip install --force-reinstall broken_package'"
    )
    assert software.import_problem("needy_package") == missing("absent_package")


@pytest.mark.parametrize(
    "error, line",
    [
        (InputError("this is refused; do that"), "this is refused; do that"),
        (ModuleNotFoundError("No", name="absent.part"), "absent is not installed; run 'pip install absent'"),
        (
            ModuleNotFoundError("No", name="PIL._imaging"),
            f"pillow {PIL.__version__} is incomplete; run",
        ),
        (ZeroDivisionError("twice\nover"), "one thing: ZeroDivisionError: twice; please report it, with all of this"),
    ],
)
def test_a_section_that_fails_is_a_line_and_the_others_go_on(error, line):
    checkup = examine([("one_thing", fails(error)), ("next", fails(error))])
    assert checkup.sections == {"one_thing": {"before": 1}, "next": {"before": 1}}
    assert checkup.problems[0] == "it hurts; rest"
    assert checkup.problems[1].startswith(line) and "\n" not in checkup.problems[1]


def test_warnings_are_lines_each_once():
    def section(facts):
        warnings.warn("no cache; make one", RuntimeWarning, stacklevel=1)
        warnings.warn("for programmers", DeprecationWarning, stacklevel=1)
        yield from ()

    assert examine([("a", section), ("b", section)]).problems == ["no cache; make one"]


def test_a_package_that_free_threaded_python_may_lack(monkeypatch):
    monkeypatch.setattr("nanoinfer.doctor.checkup.free_threaded", lambda: True)
    assert missing("absent").endswith("may not exist for free-threaded Python; use an ordinary build of it")


def test_software_of_this_environment():
    facts, problems = problems_of(software.software)
    assert not problems
    assert facts["numpy"] == np.__version__ and "numpy" in software.lower_ends()
    assert {*facts["optional"], *facts["absent"]} == {*software.OPTIONAL}


def test_packages_that_are_old_absent_or_broken(monkeypatch):
    found = {"numpy": "1.0.1", "pillow": None, "numba": "9.9"}
    monkeypatch.setattr(software, "installed", lambda package: found.get(package, "99"))
    monkeypatch.setattr(software, "lower_ends", lambda: {"numpy": "1.26", "numba": "0.62"})
    monkeypatch.setattr(software, "import_problem", lambda package: "numba: why; how" * (package == "numba"))
    _, problems = problems_of(software.software)
    assert problems == [
        "numpy 1.0.1 is older than 1.26; run 'pip install --upgrade numpy'",
        "numba: why; how",
        missing("pillow"),
    ]


def test_threads_and_where_their_number_comes_from(monkeypatch, tmp_path):
    monkeypatch.setattr(cgroups, "ROOT", tmp_path)
    monkeypatch.setattr(cgroups, "OWN", tmp_path / "own")
    (tmp_path / "own").write_text("0::/\n")
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    monkeypatch.setattr("nanoinfer.runtime.allowed_cores", lambda: 4)
    for variable in ("NANOINFER_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(variable, raising=False)

    facts, problems = problems_of(computer.threads, asked=None)
    assert (facts["by_affinity"], facts["by_cpu_quota"], facts["threads"]) == (4, 1, 1) and not problems
    assert facts["because"] == "the CPU quota of a control group"
    facts, problems = problems_of(computer.threads, asked=3)
    assert (facts["threads"], facts["because"]) == (3, "--threads")
    assert problems == [
        "3 threads (--threads) share 1 usable cores and wait for each other; set NANOINFER_NUM_THREADS=1, or allow "
        "more cores"
    ]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert problems_of(computer.threads, asked=None)[0]["because"] == "OMP_NUM_THREADS in the environment"
    monkeypatch.setenv("NANOINFER_NUM_THREADS", "many")
    assert problems_of(computer.threads, asked=None)[1][0].startswith("NANOINFER_NUM_THREADS='many': set it to")


def test_memory_that_is_nearly_used_up(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 100 << 20)
    facts, problems = problems_of(computer.memory)
    assert facts["free_bytes"] == 100 << 20
    assert problems == ["100 MiB of memory are left; end other programs, or raise the memory limit of the container"]


def test_a_cpu_without_multiply_adds(monkeypatch, tmp_path):
    monkeypatch.setattr(computer, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("model name\t: An old one\nflags\t\t: sse2 avx\n\nmodel name\t: other\n")
    for variable in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"):
        monkeypatch.delenv(variable, raising=False)
    assert problems_of(computer.computer)[0]["cpu"] == "An old one"
    assert "no multiply-add instruction" in problems_of(computer.target)[1][0]


def test_wrong_bits_are_told(monkeypatch):
    monkeypatch.setattr("nanoinfer.doctor.fingerprints.expected", lambda: dict.fromkeys(NETWORKS, "0" * 16))
    monkeypatch.setattr(engine, "SELF_TEST", ("digits",))
    facts, problems = problems_of(engine.self_test, threads=1)
    assert facts["networks"] == {"digits": f"{expected()['digits']} instead of {'0' * 16}"}
    assert problems[0].startswith("self-test: digits computes other bits than it should; run")


def test_the_self_test_is_of_the_table():
    assert {*engine.SELF_TEST} < {*NETWORKS}


def test_a_module_that_is_absent_is_one_line_of_any_command(monkeypatch, run):
    monkeypatch.setattr("nanoinfer.model.create_model", lambda *_, **__: __import__("absent_package"))
    line = "nanoinfer: absent_package is not installed; 'nanoinfer doctor' says what this installation lacks\n"
    assert run("predict") == (2, "", line)
