"""Logits of whole networks against timm and torchvision, from a checkpoint file on.

The reference is the same torch module in float64, on the same float32 weights and input: the error of nanoinfer may be
at most twice that of torch in float32. Weights and inputs are random by a seed. Other seeds are tried with

    NANOINFER_TEST_SEED=11,12,13 python -m pytest tests/models/test_accuracy.py -k error -rP

which prints both errors and their ratio for every network and seed (-rP shows what passed tests print).
"""

import numpy as np
import pytest

from nanoinfer.graph import passes
from tests.helpers import ARTICLE_WIDTHS, NETWORKS
from tests.networks import SEEDS, Network

WIDTHS = (
    *(("mobilenet_v2", {"width_mult": width}) for width in (0.5, 1.4)),
    *(("mobilenetv2_article", {"width": width}) for width in ARTICLE_WIDTHS),
)
VARIANTS = (  # same padding, other windows; 3 x 3 without gates; blurs; means; the maximum of an image
    ("tf_efficientnet_lite0", {}),
    ("tf_mobilenetv3_small_minimal_100", {}),
    ("resnetblur50", {}),
    ("resnetaa50", {}),
    ("mobilenetv3_small_050", {"global_pool": "max"}),
)


# Fixtures of module scope: tests run network by network, so that one network is in memory at a time.
@pytest.fixture(
    scope="module", params=[(name, seed) for name in NETWORKS for seed in SEEDS], ids=lambda p: f"{p[0]}-{p[1]}"
)
def network(request, tmp_path_factory):
    """A Network of the published size."""
    return Network(*request.param, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module", params=WIDTHS, ids=lambda case: f"{case[0]}-{next(iter(case[1].values()))}")
def network_of_width(request, tmp_path_factory):
    """A Network of another width, with ten classes."""
    name, arguments = request.param
    return Network(name, SEEDS[0], tmp_path_factory.mktemp("weights"), num_classes=10, **arguments)


@pytest.mark.parametrize("size", [(224, 224), (192, 256)], ids=str)
def test_error_of_logits(network, size):
    if network.name == "vit_b_32" and size != (224, 224):
        pytest.skip("takes 224 x 224 only")
    x = network.input(3, size)
    y32, y64 = network.torch_outputs(x)
    y = network.model(x)
    network.check_error(y, y32, y64, f"{size[0]} x {size[1]}, batch 3")
    alone = network.model(x[:1])
    np.testing.assert_array_equal(alone, y[:1])
    network.check_error(alone, y32[:1], y64[:1], f"{size[0]} x {size[1]}, batch 1")
    for threads in (1, 2, 3):
        np.testing.assert_array_equal(network.with_threads(threads)(x[1:2]), y[1:2], f"{threads} threads")


@pytest.mark.parametrize("size", [(96, 96), (97, 131), (160, 96)], ids=str)
def test_error_of_logits_at_other_widths_and_sizes(network_of_width, size):
    x = network_of_width.input(32, size)  # many images, because the ten logits of one are few to judge by
    y32, y64 = network_of_width.torch_outputs(x)
    network_of_width.check_error(network_of_width.model(x), y32, y64, f"{size[0]} x {size[1]}")


@pytest.mark.parametrize("name, arguments", VARIANTS, ids=[name for name, _ in VARIANTS])
def test_error_of_logits_of_variants(name, arguments, tmp_path):
    network = Network(name, SEEDS[0], tmp_path, (96, 64), **arguments)
    for size in ((96, 64), (64, 160)):
        x = network.input(8, size)
        y32, y64 = network.torch_outputs(x)
        network.check_error(network.model(x), y32, y64, f"{size[0]} x {size[1]}")
        network.check_error(network.model.with_passes(0)(x), y32, y64, f"{size[0]} x {size[1]}, no passes")


def test_error_of_logits_after_every_prefix_of_the_passes(small_network):
    x = small_network.input(3)
    y32, y64 = small_network.torch_outputs(x)
    for count in range(len(passes.PASSES) + 1):
        small_network.check_error(small_network.model.with_passes(count)(x), y32, y64, f"{count} passes")
    np.testing.assert_array_equal(small_network.model.with_passes(None)(x), small_network.model(x))


def test_error_of_logits_of_the_smallest_images(small_network):
    """The smallest images that torch takes: of one pixel, one row, two columns."""
    if small_network.name == "vit_b_32":
        pytest.skip("takes one size only")
    for size in ((1, 1), (1, 9), (3, 2)):
        x = small_network.input(2, size)
        y32, y64 = small_network.torch_outputs(x)
        small_network.check_error(small_network.model(x), y32, y64, f"{size[0]} x {size[1]}")
