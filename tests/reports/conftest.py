"""Pairs of networks with the same random weights, nanoinfer's and torch's; a profile."""

from copy import deepcopy
from functools import cache

import numpy as np
import pytest

from nanoinfer import create_model

SIZES = {"mobilenetv3_small_100": 64, "mobilenetv2_article": 64, "resnet18": 64, "vit_b_32": 32}


@cache
def original(name):
    """nanoinfer's network, a torch module with the same random values, and an input."""
    from bench import references  # imports torch, which other tests of this folder do without

    arguments = {"image_size": 32} if name == "vit_b_32" else {}
    module = references.reference(name, seed=1, **arguments)
    model = create_model(name, references.state_arrays(module), threads=1, **arguments)
    return model, module, np.random.default_rng(1).standard_normal((2, 3, SIZES[name], SIZES[name]), np.float32)


@pytest.fixture(scope="session")
def pair():
    """pair("resnet18") -> (model, a copy of the torch module, to break, input)."""

    def pair(name):
        model, module, x = original(name)
        return model, deepcopy(module), x

    return pair


@pytest.fixture(params=SIZES)
def any_pair(request, pair):
    """Each of the networks in turn."""
    return pair(request.param)


@pytest.fixture(scope="session")
def model():
    """The digits network with random weights, on two threads."""
    return create_model("digits", "random", threads=2)


@pytest.fixture(scope="session")
def profile(model):
    """Five runs of it."""
    return model.profile(np.ones((1, 3, 96, 96), np.float32), repeat=5)
