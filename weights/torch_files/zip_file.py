"""Checkpoints of torch.save (.pth, .pt, .ckpt, .bin) of torch 1.6 and later: zip archives of uncompressed entries.

"<name>/data.pkl" describes the saved object, "<name>/data/<key>" are the storages, "<name>/byteorder" says "little" or
"big".
"""

from __future__ import annotations

import io
import zipfile
import zlib

import numpy as np

from ...errors import InputError, damaged, printable
from ..buffer import Buffer
from .pickle_data import MAX_BYTES, read_pickle, too_long
from .pickle_objects import Storage
from .state_dict import choose_state_dict
from .tensors import arrays_of

MAX_DIRECTORY = 4 * 2**20  # bytes; that of a checkpoint has about 100 for each storage
_CHUNK = 2**20  # bytes whose checksum is taken at a time
_OTHER_ARCHIVES = (  # the end of an entry's name -> what such an archive is, and the next step
    ("/archive_format", "is a program of torch.export, which is code; save model.state_dict() instead"),
    ("/.data/extern_modules", "is an archive of torch.package, which is code; save model.state_dict() instead"),
    (".npy", "is an .npz archive of NumPy arrays; pass numpy.load(path) as the weights"),
    (".h5", "is a Keras archive; save the weights as .safetensors, or pass a mapping {name: array}"),
    (".pth", "is a zip with a checkpoint in it; unzip it and give the path of the checkpoint"),
    (".pt", "is a zip with a checkpoint in it; unzip it and give the path of the checkpoint"),
    (".safetensors", "is a zip with weights in it; unzip it and give the path of the .safetensors file"),
)


def read_torch_zip(buffer: Buffer, key: str | None = None) -> tuple[dict[str, np.ndarray], list[str], str | None]:
    """({name: C-contiguous array} in the order of the state dict, notes, what the trainer calls the network).

    `key` is an entry of the saved object, None for the usual ones. Only the storages in use are read, and their
    checksums are checked. Raises InputError if the file is damaged, or its weights are anything but dense tensors of
    real numbers.
    """
    archive = _Archive(buffer)
    start, size = archive.find("data.pkl")
    if size > MAX_BYTES:
        raise too_long(buffer.name, f"{MAX_BYTES // 2**20} MiB")
    root, _ = read_pickle(io.BytesIO(buffer.data[start : start + size]), buffer.name)
    state, notes, said = choose_state_dict(root, key, buffer.name)
    return arrays_of(state, buffer, archive.storage, archive.order()), notes, said


class _Archive:
    """The zip archive of a checkpoint: entries by name within its one top folder, each checked before it is used."""

    def __init__(self, buffer: Buffer):
        self.buffer, self.data, self.name = buffer, buffer.data, buffer.name
        try:
            with zipfile.ZipFile(_File(buffer)) as archive:
                entries = archive.infolist()
        except InputError:
            raise
        except Exception:  # zipfile raises many kinds on damaged bytes; all mean the same to the user
            raise damaged(buffer.name, "the zip directory at its end is missing or broken") from None
        pickles = [entry.filename for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise InputError(f"{buffer.name}: {_what_it_is(entries)}")
        folder = pickles[0][: -len("data.pkl")]
        self.entries = {entry.filename[len(folder) :]: entry for entry in entries if entry.filename.startswith(folder)}
        if len({entry.filename for entry in entries}) != len(entries):
            raise damaged(buffer.name, "the zip holds two entries of one name")
        if "constants.pkl" in self.entries:
            raise InputError(f"{buffer.name}: is a TorchScript archive, which is code; save model.state_dict() instead")
        # torch.serialization.set_crc32_options(False) writes zero for every checksum, its own serialization_id's too.
        self.has_checksums = any(entry.CRC for entry in entries)
        self.checked: dict[str, int] = {}  # the first byte of each entry that has been found sound
        self.rest = len(buffer.data)  # bytes that the other entries can have without being those of one before

    def order(self) -> str:
        """The byte order of the storages, as NumPy writes it."""
        if "byteorder" not in self.entries:
            return "<"
        start, size = self.find("byteorder")
        order = self.data[start : start + min(size, 16)].strip()
        if order not in (b"little", b"big"):
            raise damaged(self.name, f"its byteorder is {printable(order)}, neither little nor big")
        return "<" if order == b"little" else ">"

    def storage(self, storage: Storage, size: int) -> int:
        """The first byte of a storage, which has `size` bytes."""
        start, found = self.find(f"data/{storage.key}", size)
        return start

    def find(self, name: str, expected: int | None = None) -> tuple[int, int]:
        """First byte and size of one entry. Its size is checked first, then its bounds, then its checksum."""
        label = f"entry {printable(name)!r}"
        entry = self.entries.get(name)
        if entry is None:
            raise damaged(self.name, f"{label} is missing")
        size = entry.file_size
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or size != entry.compress_size:
            what = f"{label} is compressed or encrypted, which torch.save never does"
            raise InputError(f"{self.name}: {what}; save the file again with torch.save")
        if expected is not None and size != expected:
            raise damaged(self.name, f"{label} has {size} bytes where its tensors need {expected}")
        if name not in self.checked:
            self.checked[name] = self._check(entry, label)
        return self.checked[name], size

    def _check(self, entry: zipfile.ZipInfo, label: str) -> int:
        """The first byte of an entry, whose bytes are its own and match their checksum."""
        start, size = self._data_start(entry, label), entry.file_size
        if start + size > len(self.data):
            raise damaged(self.name, f"{label} reaches beyond the end of the file")
        self.rest -= size
        if self.rest < 0:
            raise damaged(self.name, f"{label} overlaps others")
        if self.has_checksums and self._checksum(start, size) != entry.CRC:
            raise damaged(self.name, f"{label} does not match its checksum")
        return start

    def _data_start(self, entry: zipfile.ZipInfo, label: str) -> int:
        """The offset of the entry's bytes, behind its local header: only that header tells its own length."""
        begin = entry.header_offset
        header = self.data[begin : begin + 30] if begin >= 0 else b""
        if len(header) != 30 or header[:4] != b"PK\x03\x04":
            raise damaged(self.name, f"{label} has no zip header")
        return begin + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:], "little")

    def _checksum(self, start: int, size: int) -> int:
        checksum, memory = 0, memoryview(bytearray(min(size, _CHUNK)))
        for begin in range(start, start + size, _CHUNK):
            part = memory[: min(_CHUNK, start + size - begin)]
            self.buffer.read_into(begin, part)
            checksum = zlib.crc32(part, checksum)
        return checksum


class _File(io.RawIOBase):
    """The bytes of a buffer as a file for zipfile, which reads the directory at their end; the rest is not copied."""

    def __init__(self, buffer: Buffer):
        self.data, self.name, self.position = buffer.data, buffer.name, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = (0, self.position, len(self.data))[whence]
        if base + offset < 0:
            raise OSError("a position before the beginning")
        self.position = base + offset
        return self.position

    def read(self, size: int = -1) -> bytes:
        if size > MAX_DIRECTORY:
            what = f"its zip directory has more than {MAX_DIRECTORY:,} bytes, far more than that of any network"
            raise InputError(f"{self.name}: {what}; save model.state_dict() alone")
        end = len(self.data) if size < 0 else self.position + size
        content = self.data[self.position : end]
        self.position += len(content)
        return content


def _what_it_is(entries: list[zipfile.ZipInfo]) -> str:
    """The problem and the next step for a zip without a data.pkl of its own."""
    for suffix, advice in _OTHER_ARCHIVES:
        if any(entry.filename.endswith(suffix) for entry in entries):
            return advice
    return "is a zip, but not a checkpoint of torch.save (no single data.pkl); give a .safetensors, .pth or .pt file"
