"""Fingerprints of logits: a table that holds on every machine, at every vector width and number of threads."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

import nanoinfer
from nanoinfer.checkpoint import random_numbers
from nanoinfer.doctor.fingerprints import NETWORKS, expected, fingerprint
from nanoinfer.machine import host
from nanoinfer.machine.tuning import TUNINGS
from tests.helpers import random_images
from tests.jit.processes import output_of, start

EXPECTED = expected()
ON_OTHER_CPU = """
import json
from nanoinfer.machine import host
from nanoinfer.doctor.fingerprints import NETWORKS, fingerprint
print(json.dumps([host().lanes, {name: fingerprint(name) for name in NETWORKS}]))
"""


def test_the_table_has_all_networks():
    assert EXPECTED.keys() == NETWORKS.keys()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_fingerprint_is_that_of_the_table(name, threads):
    assert fingerprint(name, threads) == EXPECTED[name]


@pytest.mark.slow
@pytest.mark.parametrize("cpu, lanes", [("skylake-avx512", 16), ("haswell", 8), ("generic", 4)])
def test_fingerprints_are_the_same_at_other_vector_widths(cpu, lanes, tmp_path):
    """The kernels of all networks are compiled for another CPU, which takes half a minute."""
    if lanes > host().lanes:
        pytest.skip(f"the machine has {host().lanes} lanes")
    found = output_of(start(ON_OTHER_CPU, tmp_path, NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES=""))
    assert found == [lanes, EXPECTED]


@pytest.mark.slow
@pytest.mark.parametrize("kind", TUNINGS, ids=str)
def test_fingerprints_are_the_same_planned_for_every_kind_of_machine(kind):
    """LLVM makes several registers of a vector that is wider than the host's, so this runs on any CPU."""
    lanes, registers, double_pumped = kind
    machine = replace(host(), lanes=lanes, registers=registers, double_pumped=double_pumped, tuning=TUNINGS[kind])
    assert {name: fingerprint(name, 2, machine) for name in NETWORKS} == EXPECTED


def test_fingerprint_is_a_hash_of_shape_and_bits():
    model, x = nanoinfer.create_model("digits"), random_images(2)
    logits = model(x)
    text = b"(2, 10)" + logits.astype("<f4").tobytes()
    assert model.fingerprint(x) == hashlib.sha256(text).hexdigest()[:16]
    assert model.fingerprint(x) != model.fingerprint(x[::-1]) != model.fingerprint(x[:1])


def test_every_nan_has_one_fingerprint():
    model, x = nanoinfer.create_model("digits"), random_images()
    prints = set()
    for bits in (0x7FC00000, 0xFFC00000, 0x7FC12345):
        x.view(np.uint32)[...] = bits
        prints.add(model.fingerprint(x))
    assert len(prints) == 1


def test_random_numbers_are_integers_times_a_scale():
    numbers = random_numbers(np.random.PCG64(3), (70_000,), 0.5)
    assert abs(numbers.mean()) < 0.01 and abs(numbers.std() - 0.5) < 0.01
    assert hashlib.sha256(numbers.astype("<f4").tobytes()).hexdigest()[:16] == "b9258fb74e51d68b"
    np.testing.assert_array_equal(numbers[:100], random_numbers(np.random.PCG64(3), (10, 10), 0.5).ravel())
