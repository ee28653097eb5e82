"""What a user names, to the images in it: files, folders, patterns, shards, lists and addresses."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator

from ..errors import InputError, printable
from . import archives
from .items import IMAGE_SUFFIXES, Item, failed, suffix
from .remote import fetcher, is_remote, matches, opened, problem

TARS = ("tar", "tgz", "tbz2", "txz")
LISTS = ("csv", "txt")
STANDARD_INPUT = "-"


def items(places: Iterable[str], column: str | None = None) -> Iterator[Item]:
    """The images of all places in order, a folder's in the order of their names, read as they are asked for.

    A place is an image file, a folder (with all folders in it; images and archives count, by their suffixes), a tar or
    Parquet file, a list of places (.csv, .txt, or "-" for standard input), a pattern with `*`, or an address of any of
    these. `column` is the name of the column of Parquet and CSV files. What cannot be read is an item that says so.
    """
    for place in places:
        try:
            if place == STANDARD_INPUT:
                listed = archives.list_places(sys.stdin.buffer, "standard input", column)
                yield from _listed(listed, column)
            elif _kind(place) in LISTS:
                with opened(place) as file:
                    yield from _listed(archives.list_places(file, place, column), column)
            else:
                for file in _files(place):
                    yield from _images(file, column)
        except InputError as error:
            yield Item(place, error)
        except OSError as error:
            yield failed(place, f"{problem(error)}; check the path")


def count(places: Iterable[str]) -> int | None:
    """How many images `items` yields, if that can be told without reading archives; for a progress bar."""
    total = 0
    for place in places:
        if place == STANDARD_INPUT or is_remote(place) or _kind(place) in LISTS:
            return None
        for file in _files(place):
            if _kind(file) in TARS:
                return None
            total += _rows(file) if _kind(file) == "parquet" else 1
    return total


def _rows(file: str) -> int:
    try:
        with opened(file) as opened_file:
            return archives.parquet_rows(opened_file, file)
    except Exception:  # the run says what is wrong with it
        return 1


def _listed(places: Iterable[str], column: str | None) -> Iterator[Item]:
    """The items of the places in a list. Patterns and lists within lists stay what they are: names of files."""
    for place in places:
        if is_remote(place) and _kind(place) in (*TARS, "parquet") or not is_remote(place) and os.path.isdir(place):
            yield from items([place], column)
        else:
            yield from _images(place, column)


def _kind(place: str) -> str:
    """The suffix that says what a file holds; "tar" for one that is compressed."""
    ending = suffix(place)
    if ending in ("gz", "bz2", "xz") and suffix(place[: -len(ending) - 1]) == "tar":
        return "tar"
    return ending


def _files(place: str) -> Iterator[str]:
    """The files that a place stands for."""
    if is_remote(place):
        yield from _those_with_images(place, matches(place))
    elif os.path.isdir(place):
        yield from _those_with_images(place, _walk(place))
    elif any(mark in place for mark in "*?[") and not os.path.lexists(place):
        found = sorted(glob.glob(place, recursive=True))
        if not found:
            raise InputError(f"{printable(place)}: no file matches; check the pattern")
        for path in found:
            yield from _files(path)
    else:
        yield place


def _those_with_images(place: str, files: Iterable[str]) -> Iterator[str]:
    """The files whose suffix is that of an image or archive; InputError without any."""
    found = False
    for file in files:
        if file == place or suffix(file) in IMAGE_SUFFIXES or _kind(file) in (*TARS, "parquet"):
            found = True
            yield file
    if not found:
        raise InputError(f"{printable(place)}: is a folder without images; name the images, or another folder")


def _walk(folder: str) -> Iterator[str]:
    """All files below a folder but hidden ones; links to folders are not followed, since they may lead in circles."""
    with os.scandir(folder) as entries:
        names = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    for name, is_folder in names:
        path = os.path.join(folder, name)
        if name.startswith("."):
            continue
        if is_folder:
            yield from _walk(path)
        else:
            yield path


def _images(file: str, column: str | None) -> Iterator[Item]:
    """The items of one file or address."""
    reader = archives.parquet_items if _kind(file) == "parquet" else archives.tar_items if _kind(file) in TARS else None
    if reader is None:
        yield Item(file, fetcher(file) if is_remote(file) else file)
        return
    try:
        with opened(file) as archive:
            yield from reader(archive, file, column)
    except InputError as error:
        yield Item(file, error)
    except Exception as error:
        yield failed(file, f"{problem(error)}; check the path")
