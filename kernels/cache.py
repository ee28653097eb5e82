"""The cache: a folder of small checked files for this machine, these kernel sources and these compiler versions.

A changed kernel, compiler or CPU looks in another folder, so that nothing in one can be stale. A file holds a checksum
and its content; one that is missing, cut short or changed is as good as absent.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

MAGIC = b"nanoinfer 2\n"
# What tells CPUs apart in Linux's /proc/cpuinfo, on x86 and on Arm.
CPU_FIELDS = {
    "vendor_id", "cpu family", "model", "stepping", "flags",
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features",
}  # fmt: skip


def cpu() -> str:
    """Text that differs where compiled code may have to. LLVM is asked only where the system does not tell."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = [line for line in file.read().split("\n\n")[0].splitlines() if line.split("\t")[0] in CPU_FIELDS]
    except OSError:
        lines = []
    if not any(line.lower().startswith(("flags", "features")) for line in lines):
        import llvmlite.binding as llvm

        lines = [llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]
    # Set to nothing is not the same as not set: no features rather than the host's.
    names = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_OPT")
    overrides = (f"{name}={os.environ[name]}" for name in names if name in os.environ)
    return "\n".join([*lines, *overrides])


def release(package: str) -> bytes:
    """What differs between versions of an installed package: the file that its build wrote.

    Asking importlib.metadata takes 20 ms of every start.
    """
    try:
        return Path(find_spec(package).origin).with_name("_version.py").read_bytes()
    except OSError:
        return import_module(package).__version__.encode()


@cache
def folder() -> Path | None:
    """The folder, made if need be; None, with one warning, if there can be none.

    It lies in NANOINFER_CACHE_DIR, else in the user's cache folder. A folder that others can write to is refused:
    what lies in it is run.
    """
    default = {"win32": os.environ.get("LOCALAPPDATA"), "darwin": "~/Library/Caches"}.get(sys.platform)
    base = os.environ.get("XDG_CACHE_HOME") or default or "~/.cache"
    base = os.environ.get("NANOINFER_CACHE_DIR") or os.path.join(os.path.expanduser(base), "nanoinfer")
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    for part in (release("numba"), release("llvmlite"), cpu().encode(), sys.platform.encode()):
        digest.update(part + b"\0")
    path = Path(base) / digest.hexdigest()[:24]
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = path.stat()
        if os.name == "posix":
            outer = path.parent.stat().st_mode  # whoever can rename what lies in it can put another folder there
            exposed = status.st_mode & stat.S_IWOTH or (outer & stat.S_IWOTH and not outer & stat.S_ISVTX)
            if exposed or status.st_uid not in (0, os.geteuid()):
                raise PermissionError("others can write to it")
        if not os.access(path, os.W_OK):
            raise PermissionError("it is not writable")
    except OSError as error:
        _warn(f"no kernel cache in {base} ({error.strerror or error})")
        return None
    return path


@cache
def _warn(problem: str) -> None:
    """Once for each problem, not once for each file."""
    warnings.warn(
        f"{problem}: kernels are compiled again in every process; set NANOINFER_CACHE_DIR to a folder of your own",
        RuntimeWarning,
        stacklevel=4,
    )


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def read(name: str) -> bytes | None:
    """The content of a file, or None."""
    if folder() is None:
        return None
    try:
        head, checksum, content = (folder() / name).read_bytes().split(b"\n", 2)
    except (OSError, ValueError):
        return None
    return content if head + b"\n" == MAGIC and checksum == _checksum(content) else None


def write(name: str, content: bytes) -> None:
    """Under a temporary name, then renamed: other processes see all of a file or nothing."""
    path, temporary = folder(), None
    if path is None:
        return
    try:
        with tempfile.NamedTemporaryFile(dir=path, delete=False) as file:
            temporary = file.name
            file.write(b"\n".join([MAGIC + _checksum(content), content]))
        os.replace(temporary, path / name)
        temporary = None
    except OSError as error:
        folder.cache_clear()
        _warn(f"cannot write to the kernel cache in {path} ({error.strerror or error})")
    finally:  # also when interrupted
        if temporary:
            Path(temporary).unlink(missing_ok=True)
