"""An image's logits have the same bits in any batch, on any number of threads, from any memory layout."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import nanoinfer
from tests.helpers import random_images


def test_logits_do_not_depend_on_batch_position_or_threads(small_network):
    x = small_network.input(5)
    untouched = x.copy()
    y = small_network.model(x)
    for threads in (1, 2, 3):
        model = small_network.with_threads(threads)
        for _ in range(3):
            np.testing.assert_array_equal(model(x), y, f"{threads} threads")
        np.testing.assert_array_equal(model(x[2:]), y[2:], f"{threads} threads")
        np.testing.assert_array_equal(model(x[::-1]), y[::-1], f"{threads} threads")
        for image in range(5):
            np.testing.assert_array_equal(model(x[image : image + 1]), y[image : image + 1], f"{threads} threads")
    np.testing.assert_array_equal(x, untouched)


@pytest.mark.parametrize("threads", [2, 3])
def test_batch_shards_match_single_thread(threads):
    alone, team = (nanoinfer.create_model("mobilenetv3_small_100", "random:4", threads=count) for count in (1, threads))
    x = random_images(2 * threads + 1, (64, 48), seed=8)
    tap = "blocks.1.1"
    for count in range(1, len(x) + 1):
        assert team.program((count, 3, 64, 48)).shards == (threads if count % threads == 0 else 1)
        (y, taps), (expected, seen) = team(x[:count], taps=tap), alone(x[:count], taps=tap)
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(taps[tap], seen[tap])
    features = team.forward_features(x[:threads])
    np.testing.assert_array_equal(team.forward_head(features), team(x[:threads]))


def test_logits_do_not_depend_on_the_input_memory_layout(small_network):
    x, (height, width) = small_network.input(2), small_network.size
    y = small_network.model(x)
    wide = np.zeros((4, 3, height, 2 * width), np.float32)
    wide[::2, :, :, ::2] = x
    shifted = np.zeros(x.size + 1, np.float32)[1:].reshape(x.shape)
    shifted[...] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    layouts = {
        "channels last": np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        "Fortran": np.asfortranarray(x),
        "every other": wide[::2, :, :, ::2],
        "backwards": np.ascontiguousarray(x[:, :, ::-1, ::-1])[:, :, ::-1, ::-1],
        "off a vector's alignment": shifted,
        "read-only": frozen,
    }
    for layout, array in layouts.items():
        np.testing.assert_array_equal(array, x)
        np.testing.assert_array_equal(small_network.model(array), y, layout)
        np.testing.assert_array_equal(array, x, f"{layout} was written to")


def test_results_of_two_calls_share_no_memory(small_network):
    x = small_network.input(1)
    first = small_network.model(x)
    kept = first.copy()
    small_network.model(2 * x)
    np.testing.assert_array_equal(first, kept)


def test_nan_stays_in_its_image(small_network):
    x = small_network.input(3)
    y = small_network.model(x)
    x[1, 0, 5, 7] = np.nan
    with_nan = small_network.model(x)
    np.testing.assert_array_equal(with_nan[[0, 2]], y[[0, 2]])
    with torch.no_grad():
        expected = small_network.module(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(np.isnan(with_nan), np.isnan(expected))


def test_concurrent_calls_with_many_shapes(mobilenet):
    rng = np.random.default_rng(3)
    inputs = [rng.standard_normal((1 + i % 2, 3, 32 + 3 * i, 64 - 2 * i), np.float32) for i in range(12)]
    expected = [mobilenet(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for y, again in zip(expected, pool.map(mobilenet, inputs), strict=True):
                np.testing.assert_array_equal(again, y)
