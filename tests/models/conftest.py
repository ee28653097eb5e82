"""Fixtures of the model tests."""

import pytest

import nanoinfer


@pytest.fixture(scope="session")
def mobilenet():
    """mobilenetv3_small_100 with random weights, on two threads."""
    return nanoinfer.create_model("mobilenetv3_small_100", "random:1", threads=2)
