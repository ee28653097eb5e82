"""The pickle inside of a checkpoint: damaged and hostile programs are refused, and nothing in them is executed."""

import os
import pickle
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nanoinfer.weights import InputError, load_weights

from tests.weights.files import damaged, many_examples, refused_source, rewrite_checkpoint, write_checkpoint
from tests.weights.torch_files.pickles import NESTED


@many_examples
@given(data=st.data())
def test_damaged_pickle_with_a_right_checksum_never_crashes(tmp_path, torch_bytes, data):
    (tmp_path / "m.pth").write_bytes(torch_bytes)
    with zipfile.ZipFile(tmp_path / "m.pth") as archive:
        content = archive.read("model/data.pkl")
    rewrite_checkpoint(tmp_path / "m.pth", tmp_path / "damaged.pth", {"data.pkl": damaged(content, data)})
    try:
        load_weights(tmp_path / "damaged.pth")
    except InputError as error:
        assert "\n" not in str(error)


class Call:
    """An object whose pickle calls `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_malicious_pickle_is_not_executed(tmp_path, protocol):
    victim = tmp_path / "victim"
    for call in (Call(os.system, f"touch {victim}"), Call(open, str(victim), "w"), Call(eval, f"open({victim!r},'w')")):
        write_checkpoint(tmp_path / "m.pth", pickle.dumps({"weight": call}, protocol))
        refused_source(tmp_path / "m.pth", "never executed here", "save model.state_dict() instead")
    assert not victim.exists()


@pytest.mark.parametrize(
    "program, word",
    [
        (b"\x80\x02cposix\nsystem\n.", "posix.system"),
        (b"\x80\x02(iposix\nsystem\n.", "posix.system"),
        (b"\x80\x02(cposix\nsystem\no.", "posix.system"),
        (b"\x80\x02cposix\nsystem\n)\x81.", "posix.system"),
        (b"\x80\x02cposix\nsystem\n)}\x92.", "posix.system"),
        (b"\x80\x02cposix\nsystem\n)R)R.", "posix.system"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02Pkey\n.", "PERSID"),
        (b"\x80\x02)\x81.", "damaged"),
        (b"\x80\x02}.garbage", None),
        (b"\x80\x02h\x05.", "damaged"),
        (b"\x80\x02t.", "damaged"),
        (b"\x80\x02.", "damaged"),
        (b"\x80\x02}", "damaged"),
        (b"\x80\x02})K\x01s.", "names of its entries"),
        (b"\x80\x02K\x01)R.", "a call of what is no function"),
        (b"\x80\x02]K\x01K\x01s.", "expected a dict"),
        (b"\x80\x02}K\x01a.", "expected a list"),
        (b"\x80\x02\x8b\x00\x10\x00\x00" + b"\x7f" * 4096 + b".", "too many digits"),
        (b"\x80\x02}X\x01\x00\x00\x00aK\x01s.", "'a' is an int"),
        (b"\x80\x02ccollections\nOrderedDict\n(K\x01tR.", "damaged"),
        (b"\x80\x02ccollections\nOrderedDict\n((K\x01lK\x01tR.", "OrderedDict with several arguments"),
        (b"\x80\x02ccollections\nOrderedDict\n((K\x01ltR.", "an item that is no pair"),
        (b"\x80\x02K\x01Q.", "persistent id"),
        (b"\x80\x02" + b"(" * 100_000 + b".", "damaged"),
        (b"\x80\x02}" + NESTED + b"K\x01s.", "names of its entries"),  # as a key: hashing would take 2**60 steps
        (b"\x80\x02" + NESTED + b"K\x01\x93.", "damaged"),  # as a name: printing would take 2**60 characters
        (b"\x80\x02}X\x01\x00\x00\x00a" + NESTED + b"s.", "'a' is a tuple"),
        (b"\x80\x02" + NESTED + b"Q.", "persistent id"),
        (b"\x80\x02" + NESTED + b".", "holds a tuple"),
        (b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_qtensor\n)Rs.", "a kind that is not supported"),
    ],
)
def test_hostile_opcodes_are_refused(tmp_path, program, word):
    write_checkpoint(tmp_path / "m.pth", program)
    if word is None:  # bytes after STOP are no part of the program
        assert load_weights(tmp_path / "m.pth") == {}
    else:
        refused_source(tmp_path / "m.pth", word)


def tensor_program(offset, shape, strides, count=4):
    """A pickle of {"w": tensor} as torch writes it, with any layout; `count` numbers are said to be in the storage."""

    def number(value):
        data = pickle.encode_long(value)
        return b"\x8a" + bytes([len(data)]) + data

    def text(value):
        return b"X" + len(value).to_bytes(4, "little") + value

    storage = b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu") + number(count) + b"tQ"
    sizes = b"(" + b"".join(map(number, shape)) + b"t(" + b"".join(map(number, strides)) + b"t"
    empty = b"\x89ccollections\nOrderedDict\n)R"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + sizes + empty + b"tR"
    return b"\x80\x02}" + text(b"w") + call + b"s."


def test_layouts_are_checked_before_memory_is_touched(tmp_path):
    path = tmp_path / "m.pth"
    write_checkpoint(path, tensor_program(1, [3], [1]))
    assert load_weights(path)["w"].tolist() == [1, 2, 3]
    write_checkpoint(path, tensor_program(10**9, [2**40, 0], [7, 7]))
    assert load_weights(path)["w"].shape == (2**40, 0)
    for offset, shape, strides, word in [
        (2, [3], [1], "reaches number 4"),
        (0, [2, 2], [3, 1], "reaches number 4"),
        (4, [], [], "reaches number 4"),
        (2**70, [1], [1], "offset"),
        (0, [2], [2**70], "strides"),
        (2**40, [2], [2**40], f"reaches number {2**41}"),
        (-1, [1], [1], "offset"),
        (3, [2], [-1], "strides"),
        (0, [-1], [1], "shape"),
        (0, [2], [1, 1], "layout"),
        (0, [2**30, 2**30], [0, 0], "shape"),
        (0, [2**40], [0], "repeats its numbers"),
        (0, [1] * 70, [1] * 70, "shape"),
    ]:
        write_checkpoint(path, tensor_program(offset, shape, strides))
        refused_source(path, word)
    for count in (3, 5, 2**60, -4):
        write_checkpoint(path, tensor_program(0, [2], [1], count))
        refused_source(path)
