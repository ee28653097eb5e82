"""Files that would take far more time or memory than any checkpoint are refused early; terminals see no escapes."""

import pickle
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch
from nanoinfer.weights import StoredArray, load_weights, read_weights, save_safetensors

from nanoinfer import cli
from tests.weights.files import refused_source, write_checkpoint, write_safetensors
from tests.weights.torch_files.pickles import MAGIC, NESTED, VERSION, dict_of, legacy, number, storage, tensor

ENTRY = b'"a%07d":{"dtype":"F32","shape":[],"data_offsets":[0,0]}'


def entries(count):
    """The header of a safetensors file of `count` tensors."""
    return b"{" + b",".join(ENTRY % number for number in range(count)) + b"}"


def pairs(count):
    """A pickle of 4 bytes for each of `count` items."""
    return b"\x80\x02}(" + b"K\x01K\x02" * count + b"u."


def directory(count):
    """A zip of `count` empty entries, each of the name n/data.pkl."""
    local = b"PK\x03\x04" + bytes(26)
    entry = b"PK\x01\x02" + bytes(24) + (10).to_bytes(2, "little") + bytes(16) + b"n/data.pkl"
    size = len(entry) * count
    end = b"PK\x05\x06" + bytes(4) + (count % 2**16).to_bytes(2, "little") * 2
    return local + entry * count + end + size.to_bytes(4, "little") + len(local).to_bytes(4, "little") + bytes(2)


def written(content):
    return lambda path: path.write_bytes(content())


def program(opcodes):
    return lambda path: write_checkpoint(path, b"\x80\x04" + opcodes + b".")


def items(value):
    """A dict of 99,999 names, all of this value."""
    return b"}(" + b"".join(b"X\x05\x00\x00\x00%05d" % name + value for name in range(99_999)) + b"u"


START = pickle.dumps(MAGIC, 2)  # of a legacy file
PRIME = 2**61 - 1  # all multiples of it have one hash
LONG_TEXT = b"X\x40\x42\x0f\x00" + b"a" * 1_000_000
# The arguments of an OrderedDict as memo 1, a list of pairs that is memo 0, and OrderedDict as memo 2.
OLD_DICT = b"(" + b"K\x01K\x02\x86" * 100_000 + b"lq\x00\x85q\x01ccollections\nOrderedDict\nq\x02"
HOSTILE = {
    "1.6 million names": (lambda path: write_safetensors(path, entries(1_600_000)), "94,400,008 bytes", "limit"),
    "70,000 names": (lambda path: write_safetensors(path, entries(70_000)), "70,000 tensors", "limit"),
    "digits": (
        lambda path: write_safetensors(path, b'{"a":[' + b"9" * 4_000_000 + b"]}"),
        "a number of 4000000 digits",
    ),
    "nesting": (lambda path: write_safetensors(path, b'{"a":' + b"[" * 4_000_000), "nested too deeply"),
    "50 MB of pickle": (lambda path: write_checkpoint(path, pairs(12_500_000)), "more than 32 MiB"),
    "8 MB of pickle": (lambda path: write_checkpoint(path, pairs(2_000_000)), "more than 1,000,000 instructions"),
    "legacy pickle": (written(lambda: legacy(pairs(12_500_000), {})), "more than 1,000,000 instructions"),
    "pickled text": (written(lambda: pickle.dumps(["a" * 50_000_000], 4)), "more than 32 MiB"),
    "a whole number": (
        lambda path: write_checkpoint(path, b"\x80\x02\x8b\x00\x00\x80\x01" + b"\x7f" * 0x1800000 + b"."),
        "too many digits",
    ),
    # Work that a few bytes ask for again and again, on what the memo (q) holds and gives back (h).
    "an OrderedDict of a list": (program(OLD_DICT + b"h\x02h\x01R" * 100_000 + b"K\x01"), "holds an int"),
    "names of two long halves": (program(LONG_TEXT + b"q\x00" + b"h\x00h\x00\x93" * 100_000), "whose name has no end"),
    "one dict in many places": (
        program(items(b"K\x01") + b"q\x000" + items(b"h\x00")),
        "is a dict, not a named tensor",
    ),
    "keys of one hash": (
        program(b"}(" + b"".join(number(PRIME * n) + b"K\x01" for n in range(1, 100_000)) + b"u"),
        "the names of its entries are not all text",
    ),
    "memos of one hash": (
        program(b"K\x01" + b"".join(b"p%d\n" % (PRIME * n) for n in range(99_999))),
        "impossible size",
    ),
    "a legacy version that never ends": (
        written(lambda: START + b"\x80\x02" + NESTED + b"."),
        "the version of its format",
    ),
    "a legacy key that never ends": (
        written(lambda: START + pickle.dumps(VERSION, 2) + pickle.dumps({}, 2) * 2 + b"\x80\x02]" + NESTED + b"a."),
        "its storage without a name",
    ),
    "a long name": (
        lambda path: save_safetensors({"module." * 500_000: [1.0]}, path),
        "a name of 3,500,000 characters",
    ),
    "zip directory": (written(lambda: directory(1_000_000)), "its zip directory", "far more"),
}

MEASURE = """
import resource, sys, time
from nanoinfer.weights import InputError, read_weights
from nanoinfer.weights.torch_files import legacy_file, zip_file
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
try:
    weights = read_weights(sys.argv[1])
except InputError:
    pass
print(time.process_time() - start, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def cost(path):
    """Seconds and MB that reading takes, in a process of its own."""
    run = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    return map(float, run.stdout.split())


@pytest.mark.parametrize("kind", HOSTILE)
def test_excessive_file_is_refused_early(kind, tmp_path):
    make, *parts = HOSTILE[kind]
    make(tmp_path / "m")
    start = time.process_time()
    refused_source(tmp_path / "m", *parts)
    assert time.process_time() - start < 10, "35 s without limits"


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
@pytest.mark.parametrize("kind", ["8 MB of pickle", "70,000 names"])
def test_excessive_file_takes_little_memory(kind, tmp_path):
    HOSTILE[kind][0](tmp_path / "m")
    seconds, megabytes = cost(tmp_path / "m")
    assert seconds < 10 and megabytes < 150


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
def test_numbers_stay_in_the_file(tmp_path):
    """Of 80 MB a zip and safetensors take next to nothing, not even after all checksums; of a legacy file some MB."""
    weights = {"a": torch.ones(10, 1_000_000), "b": torch.ones(10, 1_000_000)}
    torch.save(weights, tmp_path / "zip.pth")
    torch.save({"state_dict": weights, "state_dict_ema": {"a": torch.ones(3)}}, tmp_path / "both.pth")
    torch.save(weights, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    save_safetensors(weights, tmp_path / "m.safetensors")
    _, safe = cost(tmp_path / "m.safetensors")
    for name, most in (("zip.pth", 30), ("both.pth", 30), ("both.pth#state_dict", 30), ("legacy.pth", 80)):
        _, megabytes = cost(tmp_path / name)
        assert megabytes < safe + most, name


def test_arrays_stay_in_the_file_until_they_are_read(tmp_path):
    base = torch.arange(100.0)
    torch.save({"a": base[:50], "b": base[50:].view(5, 10), "c": torch.arange(3)}, tmp_path / "m.pth")
    arrays = read_weights(tmp_path / "m.pth").arrays
    assert all(isinstance(array, StoredArray) for array in arrays.values())
    loaded = load_weights(tmp_path / "m.pth")
    assert all(isinstance(array, np.ndarray) and array.flags.writeable for array in loaded.values())


def test_entries_at_the_same_bytes_are_refused(tmp_path):
    """Many of them would take time for their checksums, and memory for their numbers."""
    names = [str(number) for number in range(2000)]
    program = dict_of(**{name: tensor(storage(name, 500_000, "HalfStorage"), 0, [1], [1]) for name in names})
    with zipfile.ZipFile(tmp_path / "m.pth", "w") as archive:
        archive.writestr("m/data.pkl", program)
        archive.writestr("m/data/0", np.zeros(500_000, np.float16).tobytes())
        first = archive.getinfo("m/data/0")
        for name in names[1:]:  # in the directory alone
            twin = zipfile.ZipInfo(f"m/data/{name}")
            twin.header_offset, twin.CRC = first.header_offset, first.CRC
            twin.file_size = twin.compress_size = first.file_size
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
    refused_source(tmp_path / "m.pth", "overlaps others; the file is damaged")


ESCAPE = "\x1b]0;title\x07\x9b2J\x7fname\r"


def test_escapes_in_names_reach_no_terminal(tmp_path, capsys):
    save_safetensors({ESCAPE: np.ones(2), "b": np.ones(2)}, tmp_path / "m.safetensors")
    for form in ("table", "csv", "json", "markdown"):
        assert cli.main(["inspect", str(tmp_path / "m.safetensors"), "--format", form]) == 0
        out, err = capsys.readouterr()
        assert "name" in out and not set(out + err) & set("\x1b\x07\x9b\x7f\r"), form
    assert cli.main(["predict", "--weights", str(tmp_path / "m.safetensors")]) == 2
    assert not set("".join(capsys.readouterr())) & set("\x1b\x07\x9b\x7f\r")


@pytest.mark.parametrize("key", [ESCAPE, f"{ESCAPE}#"])
def test_escapes_in_entries_and_keys_are_escaped_in_messages(tmp_path, key):
    torch.save({key: {"a": torch.ones(1)}, "other": {"a": torch.ones(1)}}, tmp_path / "m.pth")
    refused_source(tmp_path / "m.pth", "holds several state dicts", "\\x1b")
    refused_source(f"{tmp_path / 'm.pth'}#{ESCAPE}x", "has no weights under", "\\x1b")
    torch.save({"a": torch.ones(1), key: 3}, tmp_path / "m.pth")
    refused_source(tmp_path / "m.pth", "\\x1b")
