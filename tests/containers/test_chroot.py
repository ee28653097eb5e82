"""The Dockerfile's image without Docker: its steps in a chroot, whose root is then read-only, for a user of no rights.

Needs root, Linux, Debian's mmdebstrap and a network for the system's packages: pytest -m slow tests/containers -rP
prints the sizes and times that docs/containers.md states.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.command_line import ROOT
from tests.wheel.fingerprints import FINGERPRINTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (sys.platform == "linux" and os.geteuid() == 0 and shutil.which("mmdebstrap")),
        reason="needs root and mmdebstrap",
    ),
]
RELEASE, PYTHON = "bookworm", "3.11"  # of Debian, and its Python
PACKAGES = "python3,libgcc-s1,libstdc++6,dash,coreutils"
SITE = "usr/local/lib/python3.11/dist-packages"
# In a name space of its own the root has the kernel's /proc and the machine's /dev; "ro" makes it read-only.
MOUNTED = """
root=$1; mode=$2; shift 2
mount --bind "$root" "$root" && mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev"
mount -o "remount,bind,$mode" "$root"
exec "$@"
"""


def instructions():
    """(instruction, rest) of the Dockerfile's last stage."""
    lines = [line.split(None, 1) for line in (ROOT / "Dockerfile").read_text().splitlines() if line[:1].isalpha()]
    last = max(number for number, (name, _) in enumerate(lines) if name == "FROM")
    return lines[last:]


def settings(name):
    return [rest for found, rest in instructions() if found == name]


def environment():
    variables = dict(rest.split("=", 1) for rest in settings("ENV"))
    return {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/", **variables}


def run(*command, check=True, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The root, as the Dockerfile's instructions make it."""
    assert settings("FROM") == [f"python:{PYTHON}-slim"]
    folder = tmp_path_factory.mktemp("image")
    root, wheels = folder / "root", folder / "wheels"
    run("mmdebstrap", "--quiet", "--variant=extract", f"--include={PACKAGES}", RELEASE, root)
    for name in ("proc", "dev", "usr/local/bin"):
        (root / name).mkdir(parents=True, exist_ok=True)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", wheels, ".", cwd=ROOT)
    for command in settings("RUN"):
        only = ("--only-binary=:all:", "--python-version", PYTHON, "--platform", "manylinux2014_x86_64")
        newer = ("--platform", "manylinux_2_27_x86_64", "--platform", "manylinux_2_28_x86_64")
        pip, install, *rest = command.replace("/wheels/*.whl", str(next(wheels.glob("nanoinfer-*.whl")))).split()
        assert (pip, install) == ("pip", "install")
        run(sys.executable, "-m", "pip", "install", "-q", *only, *newer, "--target", root / SITE, *rest)
    for script in (root / SITE / "bin").iterdir():
        text = script.read_text().split("\n", 1)[1]
        (root / "usr/local/bin" / script.name).write_text(f"#!/usr/bin/python3\n{text}")
        (root / "usr/local/bin" / script.name).chmod(0o755)
    run("chroot", root, "/usr/bin/python3", "-m", "compileall", "-q", f"/{SITE}", check=False)
    return root


def contained(image, *command, cores=None):
    """A command in the image, as the documented `docker run` has it."""
    [user] = settings("USER")
    limit = ["taskset", "-c", cores] if cores else []
    inside = [*limit, "chroot", f"--userspec={user}", image, *command]
    return run("unshare", "-m", "sh", "-ec", MOUNTED, "sh", image, "ro", *inside, env=environment(), check=False)


def entry():
    [text] = settings("ENTRYPOINT")
    return json.loads(text)


def test_digits_are_predicted_without_a_compiler_or_a_word(image):
    """Five times: it prints the seconds of each, with the start of the container's shell and of Python."""
    for _ in range(5):
        start = time.perf_counter()
        done = contained(image, *entry(), "predict", "--format", "json")
        print(f"{time.perf_counter() - start:.2f} s")
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads(done.stdout)
    assert sum(row["predictions"][0]["label"] in row["file"] for row in rows) >= 9 and len(rows) == 10
    assert "No module named 'numba'" in contained(image, "python3", "-c", "import numba").stderr
    assert contained(image, "sh", "-c", "touch /usr/local/x").returncode != 0


def test_networks_have_the_bits_of_the_checkout(image):
    here = run(sys.executable, "-c", FINGERPRINTS, cwd=ROOT)
    found, origins = json.loads(contained(image, "python3", "-c", FINGERPRINTS).stdout)
    assert (found, origins) == (json.loads(here.stdout)[0], ["wheel"])


def test_doctor_counts_the_cores_that_it_may_use(image):
    done = contained(image, *entry(), "doctor", "--json", cores="0")
    facts = json.loads(done.stdout)
    assert facts["threads"]["threads"] == 1


def test_sizes(image):
    """Printed, for docs/containers.md."""
    folders = {"root": ".", "site-packages": SITE, "kernels": f"{SITE}/nanoinfer/kernels/objects"}
    heavy = {name: f"{SITE}/{name}" for name in ("numpy", "numpy.libs", "PIL", "pillow.libs", "nanoinfer")}
    sizes = {name: size(image / path) for name, path in {**folders, **heavy}.items()}
    for name, value in sizes.items():
        print(f"{name:14} {value / 2**20:8.1f} MiB")
    assert 0 < sizes["kernels"] < 8 << 20


def size(path: Path) -> int:
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
