"""Run the core tests, those that need no torch, on every Python with the oldest and the newest packages.

    python .ci/matrix.py                     every row whose interpreter is found
    python .ci/matrix.py 3.10-oldest 3.14    these rows
    python .ci/matrix.py --require 3.14      fail where its interpreter is not found
    python .ci/matrix.py --root FOLDER       look for interpreters in an unpacked system, too, and run them in a chroot

An interpreter is this one, `pythonX.Y` on the path, one of pyenv's, or `usr/bin/pythonX.Y` in a root. With debootstrap
or mmdebstrap such a root takes a minute:

    mmdebstrap --variant=essential --include=python3.14,python3.14-venv,libstdc++6,ca-certificates forky FOLDER

Each row gets a virtual environment of its own, for which pip downloads packages: in rows of the name "oldest" the lower
ends of setup.cfg, or the first releases for that Python, in others the newest. The exit code is 1 if a row failed; one
without an interpreter is named, and is no failure unless it is required.
"""

from __future__ import annotations

import argparse
import configparser
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = """
tests/test_imports.py tests/test_image_files.py tests/kernels/test_examples.py tests/jit/test_compiler.py
tests/jit/test_target.py tests/jit/test_kernel_cache.py tests/jit/test_fork.py tests/runtime/test_default_threads.py
tests/runtime/test_callers.py tests/models/test_fingerprints.py tests/models/test_digits.py tests/cli/test_predict.py
tests/weights/test_folders.py tests/doctor
""".split()
SHARED = ("/proc", "/sys", "/dev", "/etc/ssl", tempfile.gettempdir(), ROOT)  # between this system and a root
TOOLS = ["setuptools>=77", "pytest>=8", "hypothesis>=6"]
# What differs from setup.cfg's lower ends: the oldest release that exists for this Python.
OLDEST = {
    "3.10": {},
    "3.11": {},
    "3.12": {"numpy": "1.26.0"},
    "3.13": {"numpy": "2.1.0", "pillow": "10.4.0", "safetensors": "0.4.5"},
    "3.14": {"numpy": "2.3.3", "numba": "0.63.0", "llvmlite": "0.46.0", "pillow": "12.0.0", "safetensors": "0.6.2"},
}
# Of free-threaded builds only 3.14t: Numba has no packages for another.
ROWS = [f"{python}{end}" for python in OLDEST for end in ("-oldest", "")] + ["3.14t"]
QUESTION = """
import sys, sysconfig
print("%d.%d" % sys.version_info[:2] + "t" * bool(sysconfig.get_config_var("Py_GIL_DISABLED")))
"""
VERSIONS = """
import platform
from importlib.metadata import version
print(platform.python_version(), *(f"{name} {version(name)}" for name in "numpy numba llvmlite pillow".split()))
"""


def lower_ends(python: str) -> list[str]:
    """The oldest release of each requirement in setup.cfg that there is for this Python, as pip takes it."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    given = dict(re.split(">=", line) for line in config["options"]["install_requires"].split())
    return [f"{name}=={version}" for name, version in (given | OLDEST[python]).items()]


def interpreter(python: str, roots: list[Path]) -> list[str] | None:
    """The command that starts a Python such as "3.12" or "3.14t", or None."""
    versions = Path("~/.pyenv/versions").expanduser().glob(f"{python.rstrip('t')}.*/bin/python")
    paths = [sys.executable, shutil.which(f"python{python}"), *map(str, versions)]
    program = f"usr/bin/python{python}"
    commands = [[path] for path in paths if path]
    commands += [within(root, f"/{program}") for root in roots if (root / program).exists()]
    for command in commands:
        answer = subprocess.run([*command, "-c", QUESTION], capture_output=True, text=True)
        if answer.stdout.strip() == python:
            return command
    return None


def within(root: Path, program: str) -> list[str]:
    """A command that runs a program in a root, where folders that it needs have their own paths."""
    mounts = "; ".join(f"mkdir -p {root}{place}; mount --rbind {place} {root}{place}" for place in SHARED)
    script = f'{mounts}; cp /etc/resolv.conf {root}/etc/; exec chroot {root} env -C {ROOT} "$@"'
    return ["unshare", "--mount", "sh", "-ec", script, "sh", program]


def run(row: str, command: list[str], folder: Path, arguments: list[str]) -> str:
    """Install a row's packages and test with them; what became of it, in a few words."""
    python, _, end = row.partition("-")
    place, log = folder / row, folder / f"{row}.log"
    prefix, environment = command[:-1], {**os.environ, "TMPDIR": tempfile.gettempdir()}
    environment = {name: value for name, value in environment.items() if not name.startswith(("PYTHON", "NUMBA_"))}
    inside = [*prefix, str(place / "bin" / "python")]
    pip = [*inside, "-m", "pip", "install", "-q"]
    packages = lower_ends(python) if end else []
    steps = (
        ("make an environment", [*command, "-m", "venv", "--clear", str(place)]),
        ("install packages", [*pip, "--only-binary=:all:", *packages, *TOOLS]),
        ("install nanoinfer", [*pip, "--no-build-isolation", "-e", str(ROOT), *packages]),
        ("ask for versions", [*inside, "-c", VERSIONS]),
        ("test", [*inside, "-m", "pytest", "-p", "no:cacheprovider", *(arguments or TESTS)]),
    )
    with open(log, "w+", encoding="utf-8") as file:
        for name, step in steps:
            if subprocess.run(step, cwd=ROOT, env=environment, stdout=file, stderr=file).returncode:
                file.seek(0)
                return f"FAILED to {name}: {(file.read().strip().splitlines() or ['no output'])[-1]}; see {log}"
        file.seek(0)
        lines = file.read().strip().splitlines()
    versions = next((line for line in lines if re.match(r"3\.\d+\.\d+\S* numpy", line)), "")
    return f"{versions}: {lines[-1].strip('= ')}"


def main() -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would tests
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"default: {' '.join(ROWS)}")
    parser.add_argument("--require", action="store_true", help="a row whose interpreter is not found has failed")
    parser.add_argument("--root", type=Path, action="append", default=[], help="an unpacked system")
    parser.add_argument("--folder", type=Path, help="for environments and logs; with --root below the temporary folder")
    parser.add_argument("--tests", nargs="+", default=[], help="instead of the core tests")
    arguments = parser.parse_args()
    unknown = sorted({*arguments.rows} - {*ROWS})
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    folder, failed = arguments.folder or Path(tempfile.mkdtemp(prefix="matrix-")), False
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for row in arguments.rows or ROWS:
        command = interpreter(row.partition("-")[0], [root.resolve() for root in arguments.root])
        start = time.perf_counter()
        result = run(row, command, folder, arguments.tests) if command else "not run: no interpreter was found"
        failed |= result.startswith("FAILED") or (arguments.require and command is None)
        print(f"{row:12} {time.perf_counter() - start:5.0f} s  {result}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
