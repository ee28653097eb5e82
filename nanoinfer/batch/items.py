"""One image of a source, and which names are those of images."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import NamedTuple

from ..errors import InputError, printable

IMAGE_SUFFIXES = frozenset(
    "apng avif bmp dib gif heic heif ico j2k jfif jp2 jpe jpeg jpg mpo pbm pgm png pnm ppm tga tif tiff webp".split()
)


class Item(NamedTuple):
    """An image that has not been read.

    path: its name in results: a file, an address, or ARCHIVE#MEMBER. source: what `image.open_image` takes; a function
    that fetches it, for a thread that may wait; or the InputError that stands in its place.
    """

    path: str
    source: object

    @property
    def held_bytes(self) -> int:
        """Memory that the item takes while it waits."""
        return len(self.source) if isinstance(self.source, bytes) else 0

    def open(self):
        """The source for `image.open_image`, whose messages begin with the item's path. Raises InputError."""
        source = self.source() if isinstance(self.source, Callable) else self.source
        if isinstance(source, InputError):
            raise source
        return NamedBytes(source, self.path) if isinstance(source, bytes) else source


class NamedBytes(io.BytesIO):
    """The bytes of a file as an open file with a `name`."""

    def __init__(self, content: bytes, name: str):
        super().__init__(content)
        self.name = name


def failed(path: str, problem: str) -> Item:
    """The item of something that cannot be read; the problem says what to do."""
    return Item(path, InputError(f"{printable(path)}: {problem}"))


def suffix(name: str) -> str:
    """The last suffix of a file's name, of an address without its query, in small letters and without its dot."""
    if "://" in name:
        name = name.split("?")[0].split("#")[0]
    name = name.rsplit("/", 1)[-1]
    return name.rsplit(".", 1)[-1].lower() if "." in name else ""
