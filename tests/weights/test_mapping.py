"""Weights from a mapping {name: array-like}."""

import numpy as np
import pytest
import torch
from nanoinfer.weights import load_weights

from tests.weights.files import refused_source


def test_mapping_of_array_likes_loads(tmp_path):
    shared = np.ones((2, 2), np.float32)
    source = {
        "f64": np.full(3, 0.1),
        "f16": np.ones((2, 3), np.float16).T,
        "big_endian": np.arange(4, dtype=">i4"),
        "list": [1.5, 2.5],
        "scalar": 2,
        "shared": shared,
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "bf16": torch.full((2,), 1.5, dtype=torch.bfloat16),
    }
    arrays = load_weights(source)
    assert arrays is not source and list(arrays) == list(source)
    assert all(isinstance(array, np.ndarray) and array.flags.c_contiguous for array in arrays.values())
    floats = {"f64", "f16", "list", "shared", "parameter", "bf16"}
    assert {name for name in arrays if arrays[name].dtype == np.float32} == floats
    assert arrays["big_endian"].dtype.isnative and arrays["big_endian"].tolist() == [0, 1, 2, 3]
    assert arrays["scalar"].shape == () and arrays["bf16"].tolist() == [1.5, 1.5]
    assert arrays["shared"] is shared, "float32 is not copied"
    np.savez(tmp_path / "m.npz", a=np.ones(2))
    assert load_weights(np.load(tmp_path / "m.npz"))["a"].dtype == np.float32


@pytest.mark.parametrize("value", ["text", None, object(), 1j, [[1], [1, 2]], {"nested": 1}, np.array(["a"]), b"x"])
def test_mapping_of_other_values_is_refused(value):
    refused_source({"name\n": value}, "name")
