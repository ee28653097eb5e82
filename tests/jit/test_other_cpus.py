"""Kernels compiled for CPUs with narrower vectors compute the same bits."""

import pytest

from nanoinfer.machine import host
from tests.jit.processes import output_of, start

# The digits network. Prints the number of lanes and a hash of the logits.
DIGITS = """
import hashlib, json, sys
import numpy as np
import nanoinfer
from nanoinfer.machine import host

model = nanoinfer.create_model("digits", threads=2)
x = np.random.default_rng(0).standard_normal((1, 3, *model.architecture.preprocessing.crop), np.float32)
print(json.dumps(dict(lanes=host().lanes, bits=hashlib.sha256(model(x).tobytes()).hexdigest())))
"""


def as_other_cpu(name, cache):
    """What DIGITS prints if Numba's own variables name another CPU."""
    return output_of(start(DIGITS, cache, NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=""))


@pytest.fixture(scope="module")
def host_bits(predicted):
    """The hash that DIGITS prints with kernels of this CPU."""
    return output_of(start(DIGITS, predicted[0]))["bits"]


@pytest.mark.skipif(host().lanes != 16, reason="compares with 16 lanes")
def test_8_lanes_without_avx512_give_the_same_bits(host_bits, tmp_path):
    assert as_other_cpu("haswell", tmp_path) == {"lanes": 8, "bits": host_bits}


@pytest.mark.skipif(host().lanes < 8, reason="compares with wider vectors")
def test_4_lanes_without_fma_give_the_same_bits(host_bits, tmp_path):
    assert as_other_cpu("generic", tmp_path) == {"lanes": 4, "bits": host_bits}
