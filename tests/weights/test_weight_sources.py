"""Sources of weights: the content decides the format, anything else is refused; the package needs NumPy alone."""

import os
import subprocess
import sys

import numpy as np
from nanoinfer.weights import load_weights

from tests.weights.files import refused_source


def test_content_decides_the_format_and_not_the_suffix(tmp_path, torch_bytes, safetensors_bytes):
    (tmp_path / "a.safetensors").write_bytes(torch_bytes)
    (tmp_path / "b.pth").write_bytes(safetensors_bytes)
    assert "0.weight" in load_weights(tmp_path / "a.safetensors")
    assert list(load_weights(tmp_path / "b.pth")) == ["b", "a", "c"]


def test_source_of_another_kind_is_refused():
    refused_source({1: np.ones(1)}, "not a string")
    for source in (None, 3, [np.ones(1)]):
        refused_source(source, "hub:owner/name")


def test_path_of_no_weight_file_is_refused(tmp_path):
    refused_source(tmp_path / "absent.pth", "no such file")
    refused_source(tmp_path, "has no model.safetensors", "give its path")
    refused_source("a\0b", "cannot be read")
    refused_source(os.devnull, "regular file")
    for content, word in [
        (b"", "empty"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "its pickle is damaged"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"0123456789abcdef", "not a .pth file"),
        (b"\0" * 100, "not a .pth file"),
        (b"PK\x05\x06" + b"\0" * 18, "not a checkpoint"),
    ]:
        (tmp_path / "x.pth").write_bytes(content)
        refused_source(tmp_path / "x.pth", "x.pth", word)
    (tmp_path / "x.dat").write_bytes(b"0123456789abcdef")
    refused_source(tmp_path / "x.dat", "neither")


def test_import_of_weights_needs_numpy_alone():
    code = "import sys, nanoinfer.weights; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"torch", "safetensors", "huggingface_hub", "nanoinfer.kernels", "nanoinfer.graph"} & set(loaded)
