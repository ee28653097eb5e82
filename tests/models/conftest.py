"""Fixtures of the model tests."""

import pytest

import nanoinfer


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread():
    """Run torch on one thread: two that wait for each other are slower on a machine with other work."""
    try:
        import torch
    except ImportError:  # some tests of this folder need none
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def mobilenet():
    """mobilenetv3_small_100 with random weights, on two threads."""
    return nanoinfer.create_model("mobilenetv3_small_100", "random:1", threads=2)
