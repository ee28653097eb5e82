"""The cache: a folder of small checked files for this machine, these kernel sources and these compiler versions.

A changed kernel, compiler or CPU looks in another folder, so that no kernel in one can be stale. A file holds a
checksum and its content. The checksum is also of the file's name and of all that the folder is for, so a file that is
cut short, changed, renamed or brought from another folder is as good as absent. It is compared before a byte of the
content is used.

What lies here is run, so only root and the user may be able to replace it: `_trust`. A folder that can be read but not
written, such as one in a container's image, serves what it has.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import time
import warnings
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from . import target

MAGIC = b"nanoinfer 3\n"
SUFFIX = ".new"  # of a file that is being written
ABANDONED = 3600  # seconds after which such a file has lost its writer


class Untrusted(OSError):
    """Somebody else could replace what would be run."""


def base() -> Path:
    """NANOINFER_CACHE_DIR, else `nanoinfer` in the user's cache folder. Raises OSError if there is no such folder."""
    place = os.environ.get("NANOINFER_CACHE_DIR")
    if not place:
        default = {"win32": os.environ.get("LOCALAPPDATA"), "darwin": "~/Library/Caches"}.get(sys.platform)
        place = os.path.join(os.environ.get("XDG_CACHE_HOME") or default or "~/.cache", "nanoinfer")
    place = os.path.expanduser(place)
    if place.startswith("~"):
        raise OSError(f"{place}: this user has no home folder")
    return Path(os.path.abspath(place))  # the current folder may change


@cache
def folder() -> Path | None:
    """The folder of this process's kernels, which need not exist; None, with one warning, if none can be used."""
    try:
        if not target.IMPORTED:
            raise OSError("the sources of kernels are not there to tell versions apart")
        path = base() / target.key()[:24]
        _trust(path)
    except OSError as error:
        place = f" in {error.filename}" if error.filename else ""
        _warn(f"no kernel cache{place} ({error.strerror or error})")
        return None
    return path


def _trust(path: Path) -> None:
    """Raise OSError if another user could replace what is read in this folder of ours, or if it cannot be read.

    Who can write to the folder above can put another folder in its place. Where that one is sticky, as /tmp is, nobody
    can. A link could lead to a folder of the user's with files that somebody else made.
    """
    for place, status in ((path.parent, os.stat), (path, os.lstat)):
        try:
            found = status(place)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(0, "it is no folder", str(place))
        problem = _exposed(found, sticky=place != path)
        if problem:
            raise Untrusted(0, problem, str(place))
        if not os.access(place, os.R_OK | os.X_OK):
            raise PermissionError(0, "it cannot be read", str(place))


def _exposed(status: os.stat_result, sticky: bool = False) -> str:
    """Who else than root and this user could replace a file, or what a folder holds; "" if nobody."""
    if os.name != "posix":
        return ""
    if status.st_uid not in (0, os.geteuid()):
        return f"it belongs to another user, {status.st_uid}, who could replace what is run"
    if sticky and status.st_mode & stat.S_ISVTX:
        return ""
    if status.st_mode & stat.S_IWOTH:
        return "others can write to it, and so replace what is run; chmod go-w"
    if status.st_mode & stat.S_IWGRP and not _alone(status.st_gid):
        return f"its group {status.st_gid} can write to it, and so replace what is run; chmod g-w"
    return ""


def _alone(group: int) -> bool:
    """Whether a group is root's, or the user's own of the same name, which many systems give to each user."""
    if group == 0:
        return True
    import grp
    import pwd

    try:
        entry, user = grp.getgrgid(group), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return entry.gr_name == user.pw_name and user.pw_gid == group and {*entry.gr_mem} <= {user.pw_name}


@cache
def _warn(problem: str) -> None:
    """Once for each problem, not once for each file."""
    warnings.warn(
        f"{problem}: kernels that it lacks are compiled again in every process; set NANOINFER_CACHE_DIR to a folder of "
        "your own, or run 'nanoinfer warmup' where it can be written",
        RuntimeWarning,
        stacklevel=4,
    )


def source_digest(path: str) -> str:
    """A part of a file's name, for what other sources than the kernels write: a digest of such a source."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]


def _checksum(name: str, content: bytes) -> bytes:
    digest = hashlib.sha256(f"{target.key()}\0{name}\0".encode())
    digest.update(content)
    return digest.hexdigest().encode()


def read(name: str) -> bytes | None:
    """The content of a file, or None."""
    try:
        with opened(name) as file:
            head, checksum, content = file.read().split(b"\n", 2)
    except (OSError, ValueError):
        return None
    return content if head + b"\n" == MAGIC and checksum == _checksum(name, content) else None


def opened(name: str) -> BinaryIO:
    """A file of the folder, open for reading bytes. OSError if it is not there or somebody else could replace it."""
    if folder() is None:
        raise FileNotFoundError(name)
    # A pipe would keep a reader waiting, and a link may lead to a file that the user did not put here.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = open(os.open(folder() / name, flags), "rb")
    problem = _exposed(os.fstat(file.fileno()))
    if problem:
        file.close()
        raise Untrusted(0, problem, name)
    return file


def write(name: str, content: bytes) -> None:
    """Keep the content of a file, if that can be done."""
    save(name, [MAGIC + _checksum(name, content), b"\n", content])


def save(name: str, parts: Iterable) -> bool:
    """Write the parts of a file, bytes or arrays, under a temporary name, then rename it; whether that was done.

    Other processes see all of a file or nothing.
    """
    path, temporary = folder(), None
    if path is None:
        return False
    if target.sources() != target.IMPORTED:
        _warn(f"nothing is kept in {path}, since sources of kernels changed after they were imported")
        return False
    try:
        _make(path)
        temporary = path / f".{name}.{os.urandom(8).hex()}{SUFFIX}"
        # What others may read, but not write, whatever the umask.
        with open(temporary, "xb", opener=lambda file, flags: os.open(file, flags, 0o644)) as file:
            for part in parts:
                file.write(part)
        os.replace(temporary, path / name)
        temporary = None
    except OSError as error:
        _warn(f"cannot write to the kernel cache in {path} ({error.strerror or error})")
        return False
    finally:  # also when interrupted
        if temporary:
            with suppress(OSError):  # it was never made, and here nothing can be removed
                temporary.unlink()
    return True


def _make(path: Path) -> None:
    """Make the folder, where others may read but not write."""
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    for place in (path.parent, path):
        place.mkdir(mode=0o755, exist_ok=True)
    _trust(path)
    _sweep(path)


@cache
def _sweep(path: Path) -> None:
    """Remove what writers left that were killed."""
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith(".") and entry.name.endswith(SUFFIX):
                with suppress(OSError):  # another process was faster
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > ABANDONED:
                        os.unlink(entry.path)
