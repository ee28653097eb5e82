"""Readers of files that hold many images: tar shards, Parquet, and lists of paths. Each yields items as it reads.

None holds an archive in memory, and none raises for a damaged one: what can be read comes first, then an item that
says what is wrong.
"""

from __future__ import annotations

import csv
import importlib
import io
import tarfile
from collections.abc import Iterator

from ..errors import InputError, printable
from .items import IMAGE_SUFFIXES, Item, failed, suffix
from .remote import LARGEST_FILE, problem

PATH_COLUMNS = ("path", "file", "file_name", "filename", "filepath", "file_path", "image", "image_path", "url")
COMPRESSIONS = {"gzip": b"\x1f\x8b", "bz2": b"BZh", "lzma": b"\xfd7zXZ\0"}  # modules, and how their files begin
PARQUET_ROWS = 16  # images that are decoded from a Parquet file at a time
PARQUET_BUFFER = 1 << 20  # bytes


def tar_items(file, name: str, column: str | None) -> Iterator[Item]:
    """The images of a tar file, compressed or not, in the order in which they lie in it.

    Members with other suffixes are passed over: in shards of the WebDataset kind labels and captions lie beside images.
    """
    images = 0
    try:
        with tarfile.open(fileobj=_decompressed(file), mode="r|") as archive:
            for member in archive:
                archive.members.clear()  # tarfile keeps all that it has seen
                if member.isfile() and suffix(member.name) in IMAGE_SUFFIXES:
                    images += 1
                    yield _member(archive, member, f"{name}#{member.name}")
    except Exception as error:  # zlib, lzma and file systems raise their own
        yield failed(name, f"damaged tar file ({problem(error)}); what follows in it is left out")
        return
    if not images:
        yield failed(name, "holds no images; check what it contains")


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> Item:
    if member.size > LARGEST_FILE:
        return failed(path, "more than 1 GiB is no image")
    return Item(path, archive.extractfile(member).read())


def _decompressed(file):
    """The bytes of a file that gzip, bzip2 or xz may have compressed. A cut one raises, where tarfile would end."""
    file = io.BufferedReader(file)
    start = file.peek(6)
    for module, magic in COMPRESSIONS.items():
        if start.startswith(magic):
            return importlib.import_module(module).open(file)
    return file


def parquet_items(file, name: str, column: str | None) -> Iterator[Item]:
    """The images of a Parquet file: a column of bytes, or of {bytes, path} as data sets of Hugging Face have it.

    `column` is its name; by default the first column of such a type is taken.
    """
    parquet = _parquet(name)
    row = 0
    try:
        table = parquet.ParquetFile(file, pre_buffer=False, buffer_size=PARQUET_BUFFER)
        column = _image_column(table.schema_arrow, name, column)
        for batch in table.iter_batches(PARQUET_ROWS, columns=[column], use_threads=False):
            for value in batch.column(0):
                yield cell(value.as_py(), f"{name}#{row}")
                row += 1
    except InputError as error:
        yield Item(name, error)
    except Exception as error:
        yield failed(name, f"damaged Parquet file ({problem(error)}); what follows in it is left out")


def parquet_rows(file, name: str) -> int:
    """How many rows a Parquet file has."""
    return _parquet(name).ParquetFile(file).metadata.num_rows


def _parquet(name: str):
    try:
        from pyarrow import parquet
    except ImportError:
        raise InputError(f"{printable(name)}: to read Parquet files, run: pip install pyarrow") from None
    return parquet


def _image_column(schema, name: str, wanted: str | None) -> str:
    """The name of the column that holds images; InputError without one."""
    from pyarrow import types

    def holds_bytes(kind) -> bool:
        return types.is_binary(kind) or types.is_large_binary(kind)

    def holds_images(kind) -> bool:
        if types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0 and holds_bytes(kind.field("bytes").type)
        return holds_bytes(kind)

    found = [field.name for field in schema if holds_images(field.type)]
    if wanted is not None:
        found = [column for column in found if column == wanted]
    if not found:
        known = ", ".join(printable(field.name) for field in schema)
        what = "no column of images" if wanted is None else f"no column {printable(wanted)!r} of images"
        raise InputError(f"{printable(name)}: has {what}; it has {known}")
    return found[0]


def cell(value, path: str) -> Item:
    """The item of one value: bytes, {bytes, path} where either may be missing, or None."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if not value:
        return failed(path, "the image is missing")
    return Item(path, value)


def listed_places(lines, name: str, column: str | None) -> Iterator[str]:
    """The paths in lines of text: a CSV file with a header that names the column of paths, or else a path on each line.

    Raises InputError for a CSV file without such a column, if one is wanted or there are several.
    """
    lines = iter(lines)
    first = next(lines, "").rstrip("\r\n").removeprefix("\ufeff")
    header = next(csv.reader([first]), [])
    wanted = (column,) if column is not None else PATH_COLUMNS
    names = [field.strip() for field in header]
    place = next((names.index(known) for known in wanted if known in names), None)
    if place is None:
        if column is not None or suffix(name) == "csv" and len(header) > 1:
            known = ", ".join(map(printable, names))
            raise InputError(f"{printable(name)}: has no column {' or '.join(wanted[:2])}; it has {known}")
        if first:
            yield first
        yield from filter(None, (line.rstrip("\r\n") for line in lines))
        return
    for fields in csv.reader(lines):
        if len(fields) > place and fields[place]:
            yield fields[place]


def list_places(file, name: str, column: str | None) -> Iterator[str]:
    """`listed_places` of an open binary file; file names need be no UTF-8."""
    with io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="") as lines:
        yield from listed_places(lines, name, column)
