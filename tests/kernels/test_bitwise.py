"""The same bits on any machine, with any team, batch and register tile."""

import numpy as np
import pytest

from tests.cases import NETWORKS
from tests.guarded import ARM, DOUBLE_PUMPED, MIDDLE, NARROW, WIDE, run, tuned


@pytest.mark.parametrize("name", NETWORKS)
def test_same_bits_for_any_lanes_threads_and_batch(name):
    case = NETWORKS[name]
    y = run(case, WIDE)
    for machine, threads in (
        (WIDE, 2),
        (WIDE, 3),
        (WIDE, 5),
        (DOUBLE_PUMPED, 2),
        (MIDDLE, 1),
        (MIDDLE, 3),
        (NARROW, 2),
        (ARM, 3),
    ):
        np.testing.assert_array_equal(run(case, machine, threads), y)
    for image in range(3):
        np.testing.assert_array_equal(run(case, WIDE, 1, case.x[image : image + 1])[0], y[image])
    np.testing.assert_array_equal(run(case, MIDDLE, 2, case.x[1:2])[0], y[1])


@pytest.mark.parametrize("name", NETWORKS)
def test_same_bits_for_any_register_tile(name):
    case = NETWORKS[name]
    expected = run(case, WIDE)
    for machine, mr, nr in ((WIDE, 3, 1), (MIDDLE, 2, 1)):
        tiles = {1: mr + 1, 2: mr, 3: 1, 4: 1}
        other = dict(matmul_mr=tiles, pool_mr=tiles, depthwise_mr=mr, grouped_mr=mr, attention_tile=(mr, nr))
        np.testing.assert_array_equal(run(case, tuned(machine, **other), 2), expected)
