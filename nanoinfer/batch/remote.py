"""Addresses: whatever fsspec opens, such as https://, s3:// or hf://. Plain files need no fsspec."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager

from ..errors import InputError, printable

LARGEST_FILE = 1 << 30  # bytes of one image


def is_remote(place: str) -> bool:
    return "://" in place


@contextmanager
def opened(place: str):
    """A file or what lies at an address, open for reading bytes; a file is closed at the end.

    Raises InputError where fsspec, or what it needs for this kind of address, is missing, and what opening raises.
    """
    if not is_remote(place):
        with open(place, "rb") as file:
            yield file
        return
    with _file_system(place)[0].open(place, "rb") as file:
        yield file


def fetcher(address: str) -> Callable[[], bytes]:
    """A function that fetches the bytes at an address; it raises InputError where that fails."""

    def fetch() -> bytes:
        try:
            with opened(address) as file:
                content = file.read(LARGEST_FILE + 1)
        except InputError:
            raise
        except Exception as error:  # each file system raises its own
            raise InputError(f"{printable(address)}: {problem(error)}; check the address and the network") from None
        if len(content) > LARGEST_FILE:
            raise InputError(f"{printable(address)}: more than 1 GiB is no image; give a smaller file")
        return content

    return fetch


def matches(address: str) -> list[str]:
    """Addresses of all files that a pattern or a folder at an address stands for, sorted; [address] if it is a file."""
    system, path = _file_system(address)
    pattern = any(mark in address for mark in "*[")  # "?" begins the query of an address
    protocol = address.split("://")[0]
    if protocol in ("http", "https") and not pattern:
        return [address]
    found = system.glob(path) if pattern else system.find(path) if system.isdir(path) else [path]
    if not found:
        raise InputError(f"{printable(address)}: no file is there; check the address")
    return [system.unstrip_protocol(name) if "://" not in name else name for name in sorted(found)]


def problem(error: Exception) -> str:
    """What an exception of a file system or a reader says, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return printable((text.splitlines() or [""])[0] if not isinstance(error, FileNotFoundError) else "no such file")


def _file_system(address: str):
    """(fsspec's file system for an address, the path in it)."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise InputError(f"{printable(address)}: to read addresses, run: pip install fsspec aiohttp") from None
    try:
        return url_to_fs(address)
    except (ImportError, ValueError) as error:  # a package for this kind of address is missing, or none knows it
        raise InputError(f"{printable(address)}: {problem(error)}") from None
