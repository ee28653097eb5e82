"""Where a model's weights come from: files, mappings and seeds; and weights that do not fit the network."""

import numpy as np
import torch
from safetensors.numpy import save_file

import nanoinfer
from tests.helpers import DIGITS_WEIGHTS, random_images, refused


def digits_arrays():
    """{name: array} of the weights that the package holds."""
    return dict(nanoinfer.load_weights(DIGITS_WEIGHTS))


def test_weights_from_mappings_equal_weights_from_a_file():
    x = random_images()
    y = nanoinfer.create_model("digits")(x)
    np.testing.assert_array_equal(nanoinfer.create_model("digits", digits_arrays())(x), y)
    tensors = {name: torch.from_numpy(array.copy()) for name, array in digits_arrays().items()}
    np.testing.assert_array_equal(nanoinfer.create_model("digits", tensors)(x), y)


def test_random_weights_depend_on_the_seed_alone():
    x = random_images()
    first, again, other = (nanoinfer.create_model("digits", f"random:{seed}")(x) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.isfinite(first).all() and not np.array_equal(first, other)
    np.testing.assert_array_equal(
        nanoinfer.create_model("digits", "random")(x), nanoinfer.create_model("digits", "random:0")(x)
    )


def test_weights_that_do_not_fit_are_listed_in_full(tmp_path):
    arrays = digits_arrays()
    arrays["fc.weights"] = arrays.pop("fc.weight")
    del arrays["inv_residual0.dwconv.weight"]
    arrays["surplus"] = np.zeros((2, 3), np.float32)
    arrays["first_conv.conv.weight"] = np.zeros((11, 3, 3, 4), np.float32)
    arrays["first_conv.bn.num_batches_tracked"] = np.zeros((), np.int64)  # a training counter, not a weight
    path = tmp_path / "wrong.safetensors"
    save_file(arrays, path)
    width = arrays["fc.weights"].shape[1]
    for source, what in ((path, str(path)), (arrays, "the weights for digits")):
        with refused(one_line=False) as error:
            nanoinfer.create_model("digits", source)
        first, *rest = str(error.value).splitlines()
        assert first.startswith(
            f"{what}: does not fit the network: 2 tensors missing, 2 left over, 1 of another shape; "
        )
        assert "use the file that belongs to this network" in first
        assert [" ".join(line.split()) for line in rest] == [
            "missing inv_residual0.dwconv.weight (11, 1, 3, 3)",
            f"missing fc.weight (10, {width}) (file has fc.weights (10, {width}))",
            f"left over fc.weights (10, {width})",
            "left over surplus (2, 3)",
            "other shape first_conv.conv.weight (11, 3, 3, 4), not (11, 3, 3, 3)",
        ]


def test_file_of_another_width_is_refused():
    parts = "holds the weights of digits, not of mobilenetv2_article; use -m digits", "0 tensors missing, 0 left over"
    with refused(*parts, "other shape first_conv.bn.weight (11,), not (16,)", one_line=False) as error:
        nanoinfer.create_model("mobilenetv2_article", DIGITS_WEIGHTS, width=0.5, num_classes=10)
    assert "other shape fc.weight (10, 448), not (10, 640)" in error.value.full
    wide = nanoinfer.create_model("mobilenetv2_article", "random", width=0.4).tensors
    with refused("but other sizes; give its width and num_classes", one_line=False):
        nanoinfer.create_model("mobilenetv2_article", wide, width=0.5)


def test_file_of_another_network_is_refused():
    with refused("use -m digits", "missing     conv_stem.weight", one_line=False) as error:
        nanoinfer.create_model("mobilenetv3_small_100", DIGITS_WEIGHTS)
    assert "left over   fc.weight" in error.value.full


def test_tensor_names_are_printed_without_control_characters():
    with refused(one_line=False) as error:
        nanoinfer.create_model("digits", {"a\x1b[31mb\n  missing": np.zeros(1, np.float32)})
    assert "\x1b" not in str(error.value) and "\n  missing (" not in str(error.value)
