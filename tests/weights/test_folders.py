"""Folders, indexes of shards, config.json, and open files."""

import io
import json
import os

import numpy as np
import pytest
from nanoinfer.weights import load_weights, read_weights, save_safetensors
from nanoinfer.weights.folder import PUBLISHED, choose_file

from tests.helpers import refused
from tests.weights.files import refused_source


@pytest.fixture
def folder(tmp_path):
    """A folder with the shards one.safetensors (a), two.safetensors (b) and their index."""
    save_safetensors({"a": np.ones(2, np.float32)}, tmp_path / "one.safetensors")
    save_safetensors({"b": np.ones(3, np.float32)}, tmp_path / "two.safetensors")
    write_index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    return tmp_path


def write_index(folder, weight_map):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    "names, chosen",
    [
        (["pytorch_model.bin", "model.safetensors.index.json", "model.safetensors"], "model.safetensors"),
        (["pytorch_model.bin", "model.safetensors.index.json"], "model.safetensors.index.json"),
        (["pytorch_model.bin", "pytorch_model.bin.index.json", "a.pth"], "pytorch_model.bin"),
        (["pytorch_model.bin.index.json", "a.pth"], "pytorch_model.bin.index.json"),
        (["a.pth", "README.md", "optimizer.pt"], "a.pth"),
        (["open_clip_model.safetensors", "open_clip_pytorch_model.bin"], "open_clip_model.safetensors"),
        (["model_best.pth.tar", "args.yaml"], "model_best.pth.tar"),
    ],
)
def test_file_of_a_folder_is_the_one_that_libraries_take(names, chosen):
    assert choose_file(names, "here")[0] == chosen
    assert len(choose_file(names, "here")[1]) == (chosen not in PUBLISHED)


def test_folder_without_one_weight_file_is_refused():
    with refused("here: holds several weight files, 0.pth, 1.pth", "8.pth, ...; give the path of one"):
        choose_file([f"{number}.pth" for number in range(11)], "here")
    with refused("here: has no model.safetensors, pytorch_model.bin or other weight file"):
        choose_file(["optimizer.pt", "photo.jpg"], "here")


def test_shards_give_all_tensors(folder):
    for source in (folder, folder / "model.safetensors.index.json"):
        assert {name: array.size for name, array in load_weights(source).items()} == {"a": 2, "b": 3}


@pytest.mark.parametrize(
    "weight_map, word",
    [
        ({"a": "../one.safetensors"}, "which is no file beside it"),
        ({"a": "/etc/passwd"}, "which is no file beside it"),
        ({"a": "..\\one.safetensors"}, "which is no file beside it"),
        ({"a": ".."}, "which is no file beside it"),
        ({"a": "one\n.safetensors"}, "'one\\\\n.safetensors', which is no file beside it"),
        ({"a": "three.safetensors"}, "names 'three.safetensors', which is not beside it; download all 1 shards"),
        ({"a": 3}, "not a table of file names"),
        ([1], "not a table of file names"),
        ({"a": "one.safetensors", "b": "again.safetensors"}, "two shards hold 'a'"),
        ({"a": "model.safetensors.index.json"}, "is an index of shards"),
        ({str(number): f"{number}.bin" for number in range(1001)}, "names 1001 files"),
        (None, "is JSON, not weights"),
    ],
)
def test_index_that_does_not_fit_is_refused(folder, weight_map, word):
    (folder / "again.safetensors").write_bytes((folder / "one.safetensors").read_bytes())
    write_index(folder, weight_map)
    refused_source(folder / "model.safetensors.index.json", "model.safetensors.index.json", word)


def test_index_without_a_folder_is_refused(folder):
    refused_source((folder / "model.safetensors.index.json").read_bytes(), "the given bytes: is an index of shards")
    refused_source(f"{folder}#ema", "'#ema' chooses an entry of a .pth file")


def test_config_beside_the_weights_belongs_to_them(folder, monkeypatch):
    assert read_weights(folder).config is None
    (folder / "config.json").write_text('{"architecture": "digits", "label2id": {"a": 0, "a": 1}}')
    for source in (folder, folder / "one.safetensors", f"{folder}/one.safetensors"):
        weights = read_weights(source)
        assert weights.config == {"architecture": "digits", "label2id": {"a": 1}} and weights.name == str(source)
    monkeypatch.chdir(folder)
    assert read_weights("one.safetensors").config
    assert read_weights((folder / "one.safetensors").read_bytes()).config is None


@pytest.mark.parametrize("content", [b"[1]", b"{", b"\xff{}", b'{"a": ' + b"[" * 100_000, b" " * 5_000_000, b"1" * 99])
def test_config_that_cannot_be_read_is_ignored_and_said(folder, content):
    (folder / "config.json").write_bytes(content)
    weights = read_weights(folder)
    assert weights.config is None
    assert len(weights.notes) == 1 and weights.notes[0].startswith("ignores config.json beside the weights")
    assert weights.notes[0].isprintable() and len(weights.notes[0]) < 300


def test_config_that_is_a_folder_is_ignored_and_said(folder):
    (folder / "config.json").mkdir()
    assert "which cannot be read" in read_weights(folder).notes[0]


def test_open_file_is_read_from_its_position(folder):
    content = (folder / "one.safetensors").read_bytes()
    (folder / "shifted").write_bytes(b"12345" + content)
    with open(folder / "shifted", "rb") as file:
        refused_source(file, "shifted")
        file.seek(5)
        weights = read_weights(file)
        assert list(weights.arrays) == ["a"] and weights.name == str(folder / "shifted")
    memory = io.BytesIO(b"1" + content)
    memory.read(1)
    assert list(load_weights(memory)) == ["a"]
    assert read_weights(io.BytesIO(content)).name == "the file object"


def test_plain_open_file_is_read_after_it_was_closed(folder):
    with open(folder / "one.safetensors", "rb") as file:
        array = read_weights(file).arrays["a"]
    assert np.asarray(array).sum() == 2


def test_mutable_bytes_are_copied(folder):
    content = bytearray((folder / "one.safetensors").read_bytes())
    array = load_weights(content)["a"]
    content[-8:] = bytes(8)
    assert array.sum() == 2


class Broken:
    """A file object whose connection is lost."""

    def read(self):
        raise ConnectionError("lost\x1b")


def test_file_object_that_gives_no_bytes_is_refused(folder):
    refused_source(io.StringIO("text"), "the file object: gives str and no bytes; open it in binary mode")
    refused_source(Broken(), "cannot be read (lost\\x1b); open it for reading")
    with open(folder / "new", "wb") as file:
        refused_source(file, "new: cannot be read")
    with open(folder / "one.safetensors", "rb") as file:
        pass
    refused_source(file, "one.safetensors: cannot be read (I/O operation on closed file")
    refused_source(io.BytesIO(b""), "the file is empty")
    refused_source(b"", "the given bytes: the file is empty")


def test_folder_that_cannot_be_read_is_refused(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    refused_source(folder, "cannot be read (Permission denied); check its permissions")
