"""Legacy files of torch: damaged and hostile ones; what kinds of them load stands in tests/weights/kinds."""

import io
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nanoinfer.weights import InputError, load_weights

from tests.weights.files import assert_equals_torch, damaged, every_dtype, many_examples, refused_source
from tests.weights.torch_files.pickles import MAGIC, VERSION, dict_of, legacy, storage, tensor


@pytest.fixture(scope="module")
def content():
    file = io.BytesIO()
    state = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).state_dict()
    torch.save(state, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


@many_examples
@given(data=st.data())
def test_truncated_or_flipped_legacy_file_never_crashes(content, data):
    try:
        load_weights(damaged(content, data))
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_any_pickle_protocol(tmp_path, protocol):
    tensors = every_dtype()
    torch.save(tensors, tmp_path / "m.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    arrays = load_weights(tmp_path / "m.pth")
    assert list(arrays) == list(tensors)
    assert_equals_torch(arrays, tensors)


def test_tensors_that_share_a_storage_share_memory(tmp_path):
    base = torch.arange(10.0)
    torch.save({"a": base, "b": base[2:4]}, tmp_path / "m.pth", _use_new_zipfile_serialization=False)
    arrays = load_weights(tmp_path / "m.pth")
    assert np.shares_memory(arrays["a"], arrays["b"]) and arrays["b"].tolist() == [2, 3]


def test_storages_that_are_not_supported_are_passed_over(tmp_path):
    """Numbers of a sparse or complex tensor beside the weights lie before those of the weights."""
    for other in (torch.ones(3) * 1j, torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)):
        content = {"other": other, "model": {"w": torch.ones(2)}, "last": other}
        torch.save(content, tmp_path / "m.pth", _use_new_zipfile_serialization=False)
        assert load_weights(tmp_path / "m.pth")["w"].tolist() == [1, 1]


W = tensor(storage("7", 4, part=()), 0, [4], [1])
FOUR = np.arange(4, dtype="<f4")


@pytest.mark.parametrize(
    "content, word",
    [
        (legacy(dict_of(w=W), {"7": FOUR})[:-1], "reaches beyond the end"),
        (legacy(dict_of(w=W), {"7": FOUR[:3]}), "has 3 numbers where its tensors need 4"),
        (legacy(dict_of(w=W), {}), "storage '7' is missing"),
        (legacy(dict_of(w=W), {"7": FOUR, "8": FOUR}), "no tensor uses its storage '8'"),
        (legacy(dict_of(w=tensor(storage("7", 2**47, part=()), 0, [4], [1])), {"7": FOUR}), "has 4 numbers"),
        (legacy(dict_of(w=tensor(storage("7", 4, part=("8", 2, 3)), 0, [1], [1])), {"7": FOUR}), "a part outside"),
        (legacy(dict_of(w=tensor(storage("7", 4, part=("8", 2, 2)), 1, [2], [1])), {"7": FOUR}), "reaches number 2"),
        (legacy(dict_of(w=tensor(storage("7", 4, "AStorage", part=()), 0, [4], [1])), {"7": FOUR}), "torch.AStorage"),
        (legacy(dict_of(w=W, v=tensor(storage("7", 2, "DoubleStorage", part=()), 0, [2], [1])), {"7": FOUR}), None),
        (legacy(dict_of(w=W, v=tensor(storage("7", 8, "HalfStorage", part=()), 0, [9], [1])), {"7": FOUR}), "number 8"),
        (legacy(dict_of(w=W, v=tensor(storage("7", 9, part=()), 0, [2], [1])), {"7": FOUR}), "has another size"),
        (pickle.dumps(MAGIC, 2), "damaged"),
        (pickle.dumps(MAGIC, 2) + pickle.dumps(VERSION + 1, 2), "the version of its format is not 1001"),
        (legacy(b"\x80\x02}.", {"7": FOUR}), "no tensor uses"),
        (pickle.dumps(MAGIC, 2) + pickle.dumps(VERSION, 2) + pickle.dumps({}, 2) * 3, "no list of storages"),
    ],
)
def test_legacy_file_that_does_not_fit_is_refused(tmp_path, content, word):
    (tmp_path / "m.pth").write_bytes(content)
    if word is None:  # the same bytes as other numbers
        assert load_weights(tmp_path / "m.pth")["v"].tolist() == FOUR.view("f8").astype("f4").tolist()
    else:
        refused_source(tmp_path / "m.pth", "m.pth", word)
