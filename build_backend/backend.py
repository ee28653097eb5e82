"""The build backend (PEP 517): that of setuptools, whose wheel gets compiled kernels beside its sources.

Kernels are compiled by the package in the wheel itself. That takes some minutes of CPU time, and Numba, which is asked
for then alone: an editable install holds none, since a checkout compiles what it needs for its own CPU.
`--config-settings kernels=none` leaves them out, `kernels=x86-64-v3,aarch64` holds these levels only.
The same sources and compiler give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

COMPILER = ["numba>=0.62", "numpy>=1.24"]
OBJECTS = "nanoinfer/kernels/objects"
EARLIEST = 315532800  # seconds: a zip file's dates begin in 1980


def get_requires_for_build_wheel(config_settings=None):
    """setuptools' own, and the compiler."""
    return [*build_meta.get_requires_for_build_wheel(), *(COMPILER if _arguments(config_settings) else [])]


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """The name of the wheel, which is written to `wheel_directory`."""
    with TemporaryDirectory() as scratch:
        name = build_meta.build_wheel(scratch, None, metadata_directory)
        tree = Path(scratch, "tree")
        with zipfile.ZipFile(Path(scratch, name)) as plain:
            plain.extractall(tree)
        arguments = _arguments(config_settings)
        if arguments:
            if find_spec("numba") is None:
                raise ModuleNotFoundError(
                    "Numba compiles what a wheel holds: pip install numba, or add --config-settings kernels=none"
                )
            environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
            script = Path(__file__).with_name("kernel_files.py")
            subprocess.run([sys.executable, script, tree / OBJECTS, *arguments], env=environment, check=True)
        _write_wheel(tree, Path(wheel_directory, name))
    return name


def _arguments(config_settings) -> list[str]:
    """Arguments of kernel_files.py; none if the wheel holds no kernels."""
    chosen = (config_settings or {}).get("kernels", "all")
    if chosen == "none" or sys.platform != "linux":  # kernels call the system, and only Linux's is known to all levels
        return []
    return ["--processes", "2"] if chosen == "all" else ["--processes", "2", "--levels", *chosen.split(",")]


def _write_wheel(tree: Path, wheel: Path) -> None:
    """A wheel of all files of a tree, with a new RECORD, whose bytes depend on these alone."""
    [record] = tree.glob("*.dist-info/RECORD")
    files = sorted(path for path in tree.rglob("*") if path.is_file() and path != record)
    rows = [f"{record.relative_to(tree).as_posix()},,"]
    for path in files:
        digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()
        rows.insert(-1, f"{path.relative_to(tree).as_posix()},sha256={digest},{path.stat().st_size}")
    record.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    date = time.gmtime(max(EARLIEST, int(os.environ.get("SOURCE_DATE_EPOCH", EARLIEST))))[:6]
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in [*files, record]:
            entry = zipfile.ZipInfo(path.relative_to(tree).as_posix(), date)
            entry.external_attr, entry.compress_type = 0o100644 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
