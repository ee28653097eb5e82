"""Small sound files, as bytes."""

import numpy as np
import pytest
from nanoinfer.weights import save_safetensors


@pytest.fixture(scope="session")
def torch_bytes(tmp_path_factory):
    """A checkpoint of torch.save."""
    import torch  # here, since most of this folder can do without

    path = tmp_path_factory.mktemp("torch") / "model.pth"
    torch.save(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).state_dict(), path)
    return path.read_bytes()


@pytest.fixture(scope="session")
def safetensors_bytes(tmp_path_factory):
    """A safetensors file with tensors a, b and c."""
    path = tmp_path_factory.mktemp("safetensors") / "model.safetensors"
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4), "c": np.ones((3, 3), np.float16)}
    save_safetensors(arrays, path, {"format": "np"})
    return path.read_bytes()
