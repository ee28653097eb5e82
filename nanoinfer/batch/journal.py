"""The rows of a run, kept beside its output until all are there.

OUT.partial takes the rows as they come, a line of JSON each, and outlives whatever ends the run: at worst its last line
is torn, and dropped. When the run is complete, OUT is written from it under another name, and renamed. So OUT is whole
or not there, in any format, and it is the same file whether the run was interrupted or not.
"""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress

import numpy as np

from ..errors import InputError, printable
from .items import Item
from .readers import rows_of
from .rows import About, Row
from .sinks import WRITERS

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

VERSION = 1


class Journal:
    """The rows of OUT so far. `held` is their number, `errors` that of those that are errors."""

    def __init__(self, output: str, form: str, about: About, resume: bool):
        """Begin OUT.partial, or go on with it, or with a whole OUT, if `resume`. `form` is a key of `WRITERS`.

        Raises InputError for rows of other weights or another network, for a partial file that `resume` does not ask
        for, and for one that another process writes.
        """
        output = os.path.realpath(output) if os.path.islink(output) else output
        if os.path.exists(output) and not os.path.isfile(output):
            raise InputError(f"{printable(output)}: is no regular file, and cannot be replaced by one; choose another")
        self.output, self.path, self.form, self.about = output, f"{output}.partial", form, about
        self.held = self.errors = 0
        self._paths: Counter[int] = Counter()  # hashes of the paths of rows that were there before
        there = os.path.exists(self.path)
        if there and not resume:
            raise InputError(
                f"{printable(self.path)}: holds the rows of an interrupted run; go on with it by --resume, or remove it"
            )
        whole = [] if there or not resume or not os.path.exists(output) else rows_of(output, form, about)
        self._file = open(self.path, "r+b" if there else "w+b")
        try:
            self._lock()
            if there and self._read_header():
                self._keep_whole_lines()
            else:
                self._begin()
            for row in whole:
                self.add(row)
                self._paths[hash(row.path)] += 1
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        if fcntl:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{printable(self.path)}: another run writes it; wait for it to end") from None

    def _begin(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._write([{"version": VERSION, **self.about._asdict()}])

    def _read_header(self) -> bool:
        """Whether there is a header, which a run that ended at once may not have written."""
        line = self._file.readline()
        if not line.endswith(b"\n"):
            return False
        header = _parsed(line)
        wanted = {"version": VERSION, **self.about._asdict()}
        other = [name for name, value in wanted.items() if not isinstance(header, dict) or header.get(name) != value]
        if other:
            raise InputError(
                f"{printable(self.path)}: its rows were made with another {other[0]}; give the arguments of that run, "
                "or remove the file"
            )
        return True

    def _keep_whole_lines(self) -> None:
        """Count the rows and cut off what follows the last whole one."""
        end = self._file.tell()
        for line in self._file:
            value = _parsed(line) if line.endswith(b"\n") else None
            if not isinstance(value, dict):
                break
            end += len(line)
            self.held += 1
            self.errors += "error" in value
            self._paths[hash(value["path"])] += 1
        self._file.seek(end)
        self._file.truncate()

    def missing(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items without a row from before. A path that is given twice has two rows."""
        for item in items:
            key = hash(item.path)
            if self._paths.get(key, 0):
                self._paths[key] -= 1
            else:
                yield item

    def add(self, row: Row) -> None:
        """Keep a row; `flush` hands it to the system."""
        self.held += 1
        self.errors += row.error is not None
        self._write([_encoded(row)])

    def _write(self, values: Iterable[dict]) -> None:
        for value in values:
            self._file.write(json.dumps(value).encode("ascii") + b"\n")

    def flush(self) -> None:
        """From here on the rows outlive the process."""
        self._file.flush()

    def rows(self) -> Iterator[Row]:
        """All rows from the beginning."""
        self.flush()
        self._file.seek(0)
        self._file.readline()
        for line in self._file:
            yield _decoded(json.loads(line))

    def finish(self) -> None:
        """Write OUT and remove OUT.partial; without a single result, only the latter."""
        if self.held > self.errors:
            whole = f"{self.path}.new"
            try:
                with open(whole, "wb") as file:
                    WRITERS[self.form](self.rows(), file, self.about, self.held)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(whole, self.output)
            except BaseException:
                with suppress(OSError):
                    os.remove(whole)
                raise
        os.remove(self.path)
        self.close()

    def close(self) -> None:
        self._file.close()


def _parsed(line: bytes):
    try:
        return json.loads(line)
    except ValueError:
        return None


def _encoded(row: Row) -> dict:
    """A row as JSON has it: float64 by its digits, a vector by its bytes."""
    if row.error is not None:
        return {"path": row.path, "error": row.error}
    if row.vector is not None:
        return {"path": row.path, "vector": base64.b64encode(row.vector.astype("<f4").tobytes()).decode()}
    return {"path": row.path, "top": row.top}


def _decoded(value: dict) -> Row:
    if "vector" in value:
        vector = np.frombuffer(base64.b64decode(value["vector"]), "<f4")
        return Row(value["path"], vector=vector)
    top = value.get("top")
    return Row(value["path"], top and [tuple(item) for item in top], error=value.get("error"))
