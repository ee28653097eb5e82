"""safetensors files: what loads, what is refused, what save_safetensors writes."""

import json
import os
import stat

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
from hypothesis import given
from hypothesis import strategies as st
from nanoinfer.weights import InputError, load_weights, read_weights, save_safetensors
from nanoinfer.weights.safetensors_file import read_metadata

from tests.weights.files import (
    assert_equals_torch,
    damaged,
    every_dtype,
    many_examples,
    refused_source,
    write_safetensors,
)


def entry(dtype, shape, begin, end):
    """A tensor's entry in the header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


A, B = entry("F32", [2], 0, 8), entry("F32", [2], 8, 16)
A_JSON = json.dumps(A).encode()


def test_safetensors_holds_every_dtype(tmp_path):
    safetensors.torch.save_file(every_dtype(), tmp_path / "model.safetensors", {"format": "pt"})
    assert_equals_torch(load_weights(str(tmp_path / "model.safetensors")), every_dtype())
    assert read_metadata(tmp_path / "model.safetensors") == {"format": "pt"}


def test_unaligned_safetensors_loads(tmp_path):
    data = np.arange(3, dtype="<f4")
    write_safetensors(tmp_path / "m", {"w": entry("F32", [3], 0, 12)}, data.tobytes(), pad=3)
    array = load_weights(tmp_path / "m")["w"]
    assert array.flags.aligned
    np.testing.assert_array_equal(array, data)


@pytest.mark.parametrize(
    "header, size, word",
    [
        ({"a": A, "b": entry("F32", [2], 4, 12)}, 12, "overlaps"),
        ({"a": A, "b": A}, 8, "overlaps"),
        ({"a": A, "b": entry("F32", [2], 12, 20)}, 20, "hole"),
        ({"a": A, "b": B}, 15, "only 15 bytes"),
        ({"a": A}, 12, "4 bytes follow"),
        ({"a": entry("F32", [3], 0, 8)}, 8, "needs 12 bytes"),
        ({"a": entry("F32", [2], 8, 0)}, 8, "hold -8"),
        ({"a": entry("F32", [2], -8, 0)}, 8, "data_offsets"),
        ({"a": entry("F32", [2], 0, 8.0)}, 8, "data_offsets"),
        ({"a": entry("F32", [2], False, 8)}, 8, "data_offsets"),
        ({"a": entry("F32", [-2, -1], 0, 8)}, 8, "shape"),
        ({"a": entry("F32", [True, 2], 0, 8)}, 8, "shape"),
        ({"a": entry("F32", "2", 0, 8)}, 8, "shape"),
        ({"a": entry("F32", [1] * 100 + [2], 0, 8)}, 8, "shape"),
        ({"a": entry("F32", [2**62, 2**62, 0], 0, 0)}, 0, "shape"),
        ({"a": entry("F32", [2**31, 2**31], 0, 2**64)}, 8, "shape"),
        ({"a": entry("F8_E4M3", [8], 0, 8)}, 8, "save it as F32"),
        ({"a": entry(["F32"], [2], 0, 8)}, 8, "dtype"),
        ({"a": 3}, 0, "lacks"),
        ({"a": {"dtype": "F32"}}, 0, "lacks"),
        ({"__metadata__": {"a": 1}}, 0, "__metadata__"),
        ({"__metadata__": [], "a": A}, 8, "__metadata__"),
        ({"\ud800": A}, 8, "valid text"),
        (b'{"a":' + A_JSON + b',"a":' + A_JSON + b"}", 8, "twice"),
        (b'{"a\\n":' + A_JSON + b',"a\\n":' + A_JSON + b"}", 8, "twice"),
        (b'{"a":' * 100_000, 0, "not valid"),
        (b'{"a": {"dtype": "F32", "shape": [' + b"9" * 10_000 + b"]}}", 0, "header"),
        (b"{", 0, "not valid"),
        (b'{"\xff":1}', 0, "not valid"),
    ],
)
def test_damaged_safetensors_is_refused(tmp_path, header, size, word):
    write_safetensors(tmp_path / "m.safetensors", header, b"\0" * size)
    refused_source(tmp_path / "m.safetensors", "m.safetensors", word)


def test_impossible_header_length_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    for length in (2**63, 2**64 - 1, 100):
        path.write_bytes(length.to_bytes(8, "little") + b'{"a":1}')
        refused_source(path, "only 7 follow")
    with open(path, "wb") as file:  # a sparse file: it has this length, but takes no space
        file.write((200_000_000).to_bytes(8, "little") + b"{")
        file.truncate(300_000_000)
    refused_source(path, "limit")
    path.write_bytes(bytes(8) + b"{")
    refused_source(path, "does not begin with")


@many_examples
@given(data=st.data())
def test_truncated_or_flipped_safetensors_never_crashes(tmp_path, safetensors_bytes, data):
    path = tmp_path / "m.safetensors"
    path.write_bytes(damaged(safetensors_bytes, data))
    try:
        arrays = load_weights(path)
    except InputError as error:
        assert "\n" not in str(error)
    else:  # the format has no checksum, so a flip in a name or in a number goes unnoticed
        assert len(path.read_bytes()) == len(safetensors_bytes)
        assert all(array.dtype in (np.float32, np.int64, np.uint64) for array in arrays.values())


def test_save_safetensors_round_trip(tmp_path):
    path = tmp_path / "m.safetensors"
    arrays = {"t": np.arange(6.0, dtype=np.float32).reshape(2, 3).T, "s": np.float32(2), "i": np.arange(3)}
    arrays |= {"h": np.ones(3, np.float16), "e": np.zeros((0, 2), np.float32), "b": np.array([True, False])}
    save_safetensors(arrays, path, {"source": "a test"})
    assert read_metadata(path) == {"source": "a test"}
    for name, array in safetensors.numpy.load_file(path).items():
        assert array.dtype == arrays[name].dtype
        np.testing.assert_array_equal(array, arrays[name])
    loaded = load_weights(path)
    assert loaded["s"].shape == () and loaded["t"].shape == (3, 2) and loaded["h"].dtype == np.float32
    assert os.listdir(tmp_path) == ["m.safetensors"]
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode), "permissions of any new file"


def test_saving_over_a_file_keeps_the_arrays_stored_in_it(tmp_path):
    path, link = tmp_path / "m.safetensors", tmp_path / "link"
    save_safetensors({"w": np.ones(5000, np.float32)}, path)
    link.symlink_to(path)
    old = read_weights(link).arrays["w"]
    save_safetensors({"w": np.asarray(old)[:1] * 2}, link)
    assert np.asarray(old).sum() == 5000 and load_weights(path)["w"].tolist() == [2] and link.is_symlink()
    assert read_metadata(path) == {}


def test_target_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "absent" / "m", tmp_path, tmp_path / "file" / "m", "a\0b", os.devnull):
        with pytest.raises(InputError, match=r"^[^\n]*; (choose|give)[^\n]*$"):
            save_safetensors({"a": np.ones(1)}, path)
    for tensors, metadata in [({"a": "x"}, None), ({"__metadata__": [1]}, None), ({"a": [1]}, {"a": 1})]:
        with pytest.raises(InputError):
            save_safetensors(tensors, tmp_path / "m", metadata)
    assert os.listdir(tmp_path) == ["file"]
