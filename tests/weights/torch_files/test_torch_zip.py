"""Checkpoints of torch.save: every dtype, layout and wrapping against torch; damaged and foreign ones are refused."""

import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nanoinfer.weights import InputError, load_weights

from tests.weights.files import (
    assert_equals_torch,
    damaged,
    every_dtype,
    many_examples,
    refused_source,
    rewrite_checkpoint,
)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_torch_zip_holds_every_dtype(tmp_path, protocol):
    tensors = every_dtype()
    torch.save(tensors, tmp_path / "model.pth", pickle_protocol=protocol)
    arrays = load_weights(tmp_path / "model.pth")
    assert list(arrays) == list(tensors)
    assert_equals_torch(arrays, tensors)


def test_special_values_survive_every_width(tmp_path):
    special = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-40, 1e300, -1e-7])
    tensors = {"f32": special.float(), "f16": special.half(), "bf16": special.bfloat16(), "f64": special.double()}
    torch.save(tensors, tmp_path / "model.pt")
    arrays = load_weights(tmp_path / "model.pt")
    assert_equals_torch(arrays, tensors)
    for name in tensors:
        np.testing.assert_array_equal(np.signbit(arrays[name][:4]), [False, True, False, True])


def test_strided_shared_and_offset_tensors_load(tmp_path):
    base = torch.arange(48.0)
    tensors = {
        "base": base,
        "same": base,
        "offset": base[5:17].view(3, 4),
        "transposed": base.view(6, 8).t(),
        "steps": base[1::3],
        "expanded": torch.tensor([2.0]).expand(3, 4),
        "channels_last": torch.arange(60.0).view(1, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "half_transposed": torch.arange(6.0).half().view(2, 3).t(),
        "size_one": torch.as_strided(base, (1, 4, 1), (99, 1, 1000)),
        "parameter": torch.nn.Parameter(base.view(2, 24)),
    }
    torch.save(tensors, tmp_path / "model.pth")
    arrays = load_weights(tmp_path / "model.pth")
    assert_equals_torch(arrays, tensors)
    assert np.shares_memory(arrays["base"], arrays["offset"]), "tied weights stay tied"


@many_examples
@given(data=st.data())
def test_truncated_or_flipped_torch_zip_is_refused_or_unchanged(tmp_path, torch_bytes, data):
    """Checksums guard the numbers and the pickle, so that a file that loads has the arrays that were saved."""
    path = tmp_path / "m.pth"
    path.write_bytes(torch_bytes)
    whole = load_weights(path)
    path.write_bytes(damaged(torch_bytes, data))
    try:
        arrays = load_weights(path)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert list(arrays) == list(whole)
        for name in whole:
            np.testing.assert_array_equal(arrays[name], whole[name])


def test_checkpoint_whose_entries_do_not_fit_is_refused(tmp_path, torch_bytes):
    source, target = tmp_path / "m.pth", tmp_path / "changed.pth"
    source.write_bytes(torch_bytes)
    for changes, word in [
        ({"data/0": b"\0" * 8}, "has 8 bytes"),
        ({"data/0": None}, "'data/0' is missing"),
        ({"data.pkl": None}, "not a checkpoint"),
        ({"data.pkl": b""}, "its pickle is damaged"),
        ({"byteorder": b"middle"}, "byteorder"),
        ({"version": b"3", "data.pkl": b"\x80\x02]."}, "holds a list"),
    ]:
        rewrite_checkpoint(source, target, changes)
        refused_source(target, "changed.pth", word)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            new.writestr(item.filename, old.read(item))
    refused_source(target, "compressed")
    rewrite_checkpoint(source, target, {})
    with zipfile.ZipFile(target, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("model/data/0", b"")
    refused_source(target, "two entries")


def test_whole_models_and_torchscript_are_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pth")
    refused_source(tmp_path / "model.pth", "torch.nn.modules.linear.Linear", "save model.state_dict() instead")
    torch.save(torch.ones(2), tmp_path / "tensor.pth")
    refused_source(tmp_path / "tensor.pth", "holds a tensor")
    torch.save({"a": torch.ones(2), "epoch": 3}, tmp_path / "mixed.pth")
    refused_source(tmp_path / "mixed.pth", "'epoch' is an int")
    torch.save({"a": torch.ones(2).to_sparse()}, tmp_path / "sparse.pth")
    refused_source(tmp_path / "sparse.pth", "not supported")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02c__torch__\nNet\n.")
        archive.writestr("m/constants.pkl", b"")
    refused_source(tmp_path / "script.pt", "TorchScript")
