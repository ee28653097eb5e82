"""Whole networks, from a checkpoint file to logits and labels, against timm and torchvision.

The judge is the same torch module in float64, on the same float32 weights and input: the error of nanoinfer may be
twice that of torch in float32, no more. Weights and inputs are random by a seed. Others are tried with

    NANOINFER_TEST_SEED=11,12,13 python -m pytest tests/test_networks.py -k error -rP

which prints both errors and their ratio for every network and seed (-rP shows what passed tests print).
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

import nanoinfer
from bench.references import reference, state_arrays
from nanoinfer.architectures import MODELS
from nanoinfer.graph import Builder, ops, passes
from nanoinfer.reports.torch_reference import import_torchvision

SEEDS = [int(seed) for seed in os.environ.get("NANOINFER_TEST_SEED", "2025").split(",")]
NETWORKS = (
    "mobilenetv2_140",
    "mobilenetv3_small_100",
    "resnext50_32x4d",
    "vit_b_32",
    "mobilenet_v2",
    "mobilenetv2_article",
)
WIDTHS = (
    *(("mobilenet_v2", {"width_mult": width}) for width in (0.5, 1.4)),
    *(("mobilenetv2_article", {"width": width}) for width in (0.35, 0.5, 0.75, 1.0, 1.4)),
)
DATA = Path(nanoinfer.__file__).parent / "data"


class Case:
    """A network with random weights in torch and, through a safetensors file, in nanoinfer."""

    def __init__(self, name, seed, folder, **arguments):
        self.name, self.seed = name, seed
        self.module = reference(name, seed=seed, **arguments)
        self.path = folder / f"{name}.safetensors"
        save_file(state_arrays(self.module), self.path)
        self.model = nanoinfer.create_model(name, self.path, **arguments)

    @cached_property
    def double(self):
        return copy.deepcopy(self.module).double()

    def input(self, *shape):
        return np.random.default_rng((self.seed, *shape)).standard_normal(shape, np.float32)

    def with_threads(self, threads):
        return nanoinfer.Model(self.model.architecture, self.model.graph, self.model.tensors, threads)

    @torch.no_grad()
    def torch_outputs(self, x, call=lambda module, x: module(x)):
        """(float32, float64) of `call`."""
        x = torch.from_numpy(x)
        return call(self.module, x).numpy(), call(self.double, x.double()).numpy()


def check_error(y, y32, y64, what):
    """max|y - y64| <= 2 max|y32 - y64|, printed."""
    error, torch_error = np.abs(y - y64).max(), np.abs(y32 - y64).max()
    print(f"{what}: {error:.2e}, torch {torch_error:.2e}, ratio {error / torch_error:.2f}")
    assert y.dtype == np.float32 and y.shape == y64.shape
    assert error <= 2 * torch_error, f"{what}: error {error:.3e} is {error / torch_error:.2f} times torch's"


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # two that wait for each other are slower than one where other work runs
    yield
    torch.set_num_threads(before)


# Parametrised fixtures of a module run network by network, so that one network is in memory at a time.
@pytest.fixture(
    scope="module", params=[(name, seed) for name in NETWORKS for seed in SEEDS], ids=lambda p: f"{p[0]}-{p[1]}"
)
def network(request, tmp_path_factory):
    """A Case at the network's published size."""
    return Case(*request.param, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module", params=NETWORKS)
def small(request, tmp_path_factory):
    """(Case, size): the published network, and a small size that it takes."""
    arguments, size = ({"image_size": 64}, (64, 64)) if request.param == "vit_b_32" else ({}, (96, 64))
    return Case(request.param, SEEDS[0], tmp_path_factory.mktemp("weights"), **arguments), size


@pytest.fixture(scope="module", params=WIDTHS, ids=lambda case: f"{case[0]}-{next(iter(case[1].values()))}")
def narrow_or_wide(request, tmp_path_factory):
    name, arguments = request.param
    return Case(name, SEEDS[0], tmp_path_factory.mktemp("weights"), num_classes=10, **arguments)


def size_of(case, size):
    return f"{case.name}, seed {case.seed}, {size[0]} x {size[1]}"


# Error


@pytest.mark.parametrize("size", [(224, 224), (192, 256)], ids=str)
def test_error_of_the_logits(network, size):
    if network.name == "vit_b_32" and size != (224, 224):
        pytest.skip("takes 224 x 224 only")
    x = network.input(3, 3, *size)
    y32, y64 = network.torch_outputs(x)
    y = network.model(x)
    check_error(y, y32, y64, f"{size_of(network, size)}, batch 3")
    alone = network.model(x[:1])
    np.testing.assert_array_equal(alone, y[:1])
    check_error(alone, y32[:1], y64[:1], f"{size_of(network, size)}, batch 1")
    for threads in (1, 2, 3):
        np.testing.assert_array_equal(network.with_threads(threads)(x[1:2]), y[1:2], f"{threads} threads")


@pytest.mark.parametrize("size", [(96, 96), (97, 131), (160, 96)], ids=str)
def test_error_at_other_widths_and_sizes(narrow_or_wide, size):
    x = narrow_or_wide.input(8, 3, *size)  # ten classes are few numbers to judge one image by
    y32, y64 = narrow_or_wide.torch_outputs(x)
    check_error(narrow_or_wide.model(x), y32, y64, size_of(narrow_or_wide, size))


def test_error_of_every_prefix_of_the_passes(small):
    case, size = small
    x = case.input(3, 3, *size)
    y32, y64 = case.torch_outputs(x)
    for count in range(len(passes.PASSES) + 1):
        check_error(case.model.with_passes(count)(x), y32, y64, f"{size_of(case, size)}, {count} passes")
    np.testing.assert_array_equal(case.model.with_passes(None)(x), case.model(x))


# Taps, features and head


def hooked(module, x):
    """{module name: what a forward hook sees}; the last run counts where a module runs several times."""
    seen, handles = {}, []
    for name, part in module.named_modules():

        def keep(_, inputs, output, name=name):
            output = output[0] if isinstance(output, tuple) else output  # attention: (values, weights)
            seen[name] = output.numpy().copy()  # operators in place may change it afterwards

        handles.append(part.register_forward_hook(keep))
    with torch.no_grad():
        module(torch.from_numpy(x))
    for handle in handles:
        handle.remove()
    seen.pop("")
    return seen


def check_taps(taps, seen32, seen64):
    """Every tap within 16 float32 roundings of its layer's largest value, or twice torch's own error."""
    for name, value in taps.items():
        expected = seen64[name]
        assert value.dtype == np.float32 and value.shape == expected.shape, name
        bound = max(2 * np.abs(seen32[name] - expected).max(), 16 * 2.0**-24 * np.abs(expected).max())
        error = np.abs(value - expected).max()
        assert error <= bound, f"{name}: error {error:.3e}, allowed {bound:.3e}"


def test_taps_are_what_torch_hooks_see(small):
    case, size = small
    x = case.input(2, 3, *size)
    seen32, seen64 = hooked(case.module, x), hooked(case.double, x.astype(np.float64))
    names = list(case.model.graph.modules)
    assert set(names) == set(seen64)

    y, taps = case.model(x, taps=names)
    assert list(taps) == names
    check_taps(taps, seen32, seen64)
    y32, y64 = case.torch_outputs(x)
    check_error(y, y32, y64, f"{size_of(case, size)}, beside all taps")

    # Few taps leave most of the network fused.
    y, taps = case.model(x, taps=names[3::11])
    check_taps(taps, seen32, seen64)
    check_error(y, y32, y64, f"{size_of(case, size)}, beside few taps")

    y, taps = case.model(x, taps=names[-1])  # the output: nothing is split for it
    np.testing.assert_array_equal(y, case.model(x))
    np.testing.assert_array_equal(taps[names[-1]], y)


def test_features_and_head_compose_to_the_logits(small):
    case, size = small
    x = case.input(3, 3, *size)
    features, y = case.model.forward_features(x), case.model(x)
    logits = case.model.forward_head(features)
    if features.ndim == 3:  # where only the logits are asked for, the last block computes one token, by other sums
        np.testing.assert_allclose(logits, y, rtol=0, atol=1e-5 * np.abs(y).max())
    else:
        np.testing.assert_array_equal(logits, y)
    np.testing.assert_array_equal(case.model.forward_head(np.asfortranarray(features)), logits)
    if hasattr(case.module, "forward_features"):  # timm
        y32, y64 = case.torch_outputs(x, lambda module, x: module.forward_features(x))
        check_error(features, y32, y64, "features")
        y32, y64 = case.torch_outputs(features, lambda module, x: module.forward_head(x))
        check_error(case.model.forward_head(features), y32, y64, "head")


# Passes


def test_batch_norms_fold_in_float64_and_round_once(small):
    case, _ = small
    graph, tensors = case.model.graph, case.model.tensors
    folded, values = passes.optimise(graph, tensors, 1)
    producers, folded_producers, count = graph.producers(), folded.producers(), 0
    for node in graph.nodes:
        if node.op != "batch_norm":
            continue
        count += 1
        conv, merged = producers[node.inputs[0]], folded_producers[node.output]
        assert merged.op == "conv2d" and merged.inputs == conv.inputs
        norm = {role: tensors[name].astype(np.longdouble) for role, name in node.tensors.items()}
        scale = norm["weight"] / np.sqrt(norm["running_var"] + np.longdouble(node.attributes["eps"]))
        weight = tensors[conv.tensors["weight"]] * scale[:, None, None, None]
        bias = norm["bias"] - norm["running_mean"] * scale
        for role, exact in (("weight", weight), ("bias", bias)):
            rounded = values[merged.tensors[role]]
            assert rounded.dtype == np.float32
            half = np.spacing(np.abs(rounded)).astype(np.longdouble) / 2
            # float64 may miss the exact value by a little, and more where a difference cancels.
            slack = 1e-15 * (np.abs(exact) if role == "weight" else np.abs(norm["bias"]) + np.abs(exact - norm["bias"]))
            assert (np.abs(rounded - exact) <= half + slack).all(), merged.output
    assert (count > 0) == (case.name != "vit_b_32")


def test_optimised_graphs_hold_no_batch_norm_and_compute_the_same(small):
    case, size = small
    x = case.input(1, 3, *size).astype(np.float64)
    graph, tensors = case.model.graph, case.model.tensors
    expected = ops.evaluate(graph, tensors, x)[graph.outputs[0]]
    steps = []
    for count in range(len(passes.PASSES) + 1):
        shorter, values = passes.optimise(graph, tensors, count)
        steps.append(sum(node.op != "select_token" for node in shorter.nodes))
        y = ops.evaluate(shorter, values, x)[graph.outputs[0]]
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert steps == sorted(steps, reverse=True) and steps[-1] < steps[0]
    assert "batch_norm" not in {node.op for node in shorter.nodes}
    assert graph is case.model.graph and set(tensors) == {*graph.parameters, *graph.buffers}


@pytest.mark.parametrize(
    "widths, tapped, left",
    [((16, 16, 72), False, 1), ((8, 8, 8, 8), False, 1), ((16, 4, 72), False, 2), ((16, 16, 72), True, 2)],
    ids=["narrow", "three", "bottleneck", "tapped"],
)
def test_pointwise_convolutions_in_a_row_merge_where_that_is_less_work(widths, tapped, left):
    builder = Builder(widths[0])
    values = [builder.input]
    for number, width in enumerate(widths[1:]):
        values.append(builder.conv2d(values[-1], f"c{number}", width, 1, bias=number == 0))
    graph = builder.finish(values[-1], values[-1])
    graph = graph.with_outputs([graph.outputs[0], values[1].name]) if tapped else graph
    generator = np.random.default_rng(0)
    tensors = {name: generator.standard_normal(size, np.float32) for name, size in graph.parameters.items()}
    merged, values = passes.merge_pointwise(graph, tensors)
    assert len(merged.nodes) == left
    x = generator.standard_normal((2, widths[0], 3, 5))
    expected = ops.evaluate(graph, tensors, x)[graph.outputs[0]]
    y = ops.evaluate(merged, values, x)[graph.outputs[0]]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_a_token_that_is_read_alone_is_computed_alone():
    """The class token behind the last attention, unless all tokens are asked for."""
    model = nanoinfer.create_model("vit_b_32", "random:1")
    for outputs, alone in ((model.graph.outputs, 7), ((*model.graph.outputs, model.graph.features), 1)):
        graph, tensors = passes.optimise(model.graph.with_outputs(outputs), model.tensors)
        shapes = ops.infer_shapes(graph, (2, 3, 224, 224), {name: tensor.shape for name, tensor in tensors.items()})
        single = [node.op for node in graph.nodes if len(shapes[node.output]) == 2 and node.op != "select_token"]
        assert len(single) == alone and single.count("linear") == (alone + 1) // 2, single


def test_a_token_of_a_value_that_is_added_to_itself():
    builder = Builder(16)
    x = builder.linear(builder.input, "c", 16)
    y = builder.select_token(builder.residual(x, x, "r"), 1, "t")
    graph = builder.finish(y, y)
    tensors = {name: np.ones(size, np.float32) for name, size in graph.parameters.items()}
    chosen, _ = passes.select_token_early(graph, tensors)
    assert [node.op for node in chosen.nodes] == ["select_token", "linear", "add"]
    x = np.random.default_rng(0).standard_normal((2, 3, 16))
    outputs = [ops.evaluate(each, tensors, x)[graph.outputs[0]] for each in (graph, chosen)]
    np.testing.assert_array_equal(*outputs)


def test_hard_swish_gives_its_factor_to_the_weights(small):
    case, _ = small
    graph, _ = passes.optimise(case.model.graph, case.model.tensors)
    kinds = [node.attributes.get("activation") for node in graph.nodes]
    assert "hard_swish" not in kinds and ("scaled_hard_swish" in kinds) == case.name.startswith("mobilenetv3")


# Exactness


def test_an_image_has_the_same_bits_wherever_it_stands(small):
    case, size = small
    x = case.input(5, 3, *size)
    untouched = x.copy()
    y = case.model(x)
    for threads in (1, 2, 3):
        model = case.with_threads(threads)
        for _ in range(3):
            np.testing.assert_array_equal(model(x), y, f"{threads} threads")
        np.testing.assert_array_equal(model(x[2:]), y[2:], f"{threads} threads")
        np.testing.assert_array_equal(model(x[::-1]), y[::-1], f"{threads} threads")
        for image in range(5):
            np.testing.assert_array_equal(model(x[image : image + 1]), y[image : image + 1], f"{threads} threads")
    np.testing.assert_array_equal(x, untouched)


@pytest.mark.parametrize("threads", [2, 3])
def test_images_that_go_separate_ways(threads):
    alone, team = (nanoinfer.create_model("mobilenetv3_small_100", "random:4", threads=count) for count in (1, threads))
    x = np.random.default_rng(8).standard_normal((2 * threads + 1, 3, 64, 48), np.float32)
    tap = "blocks.1.1"
    for count in range(1, len(x) + 1):
        assert team.program((count, 3, 64, 48)).ways == (threads if count % threads == 0 else 1)
        (y, taps), (expected, seen) = team(x[:count], taps=tap), alone(x[:count], taps=tap)
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(taps[tap], seen[tap])
    features = team.forward_features(x[:threads])
    np.testing.assert_array_equal(team.forward_head(features), team(x[:threads]))


def test_memory_layout_of_the_input_does_not_matter(small):
    case, size = small
    x = case.input(2, 3, *size)
    y = case.model(x)
    wide = np.zeros((4, 3, size[0], 2 * size[1]), np.float32)
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
        np.testing.assert_array_equal(case.model(array), y, layout)
        np.testing.assert_array_equal(array, x, f"{layout} was written to")


def test_results_do_not_share_memory(small):
    case, size = small
    x = case.input(1, 3, *size)
    first = case.model(x)
    kept = first.copy()
    case.model(2 * x)
    np.testing.assert_array_equal(first, kept)


def test_a_nan_stays_in_its_image(small):
    case, size = small
    x = case.input(3, 3, *size)
    y = case.model(x)
    x[1, 0, 5, 7] = np.nan
    with_nan = case.model(x)
    np.testing.assert_array_equal(with_nan[[0, 2]], y[[0, 2]])
    with torch.no_grad():
        np.testing.assert_array_equal(np.isnan(with_nan), np.isnan(case.module(torch.from_numpy(x)).numpy()))


@pytest.fixture(scope="module")
def random_model():
    return nanoinfer.create_model("mobilenetv3_small_100", "random:1", threads=2)


def test_many_shapes_and_callers_at_once(random_model):
    rng = np.random.default_rng(3)
    inputs = [rng.standard_normal((1 + i % 2, 3, 32 + 3 * i, 64 - 2 * i), np.float32) for i in range(12)]
    expected = [random_model(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for y, again in zip(expected, pool.map(random_model, inputs), strict=True):
                np.testing.assert_array_equal(again, y)


def test_the_smallest_images_that_torch_takes(small):
    case, _ = small
    if case.name == "vit_b_32":
        pytest.skip("takes one size only")
    for size in ((1, 1), (1, 9), (3, 2)):
        x = case.input(2, 3, *size)
        y32, y64 = case.torch_outputs(x)
        check_error(case.model(x), y32, y64, size_of(case, size))


# Bad input


def refused(*parts):
    """pytest.raises(InputError), whose message has `parts` in this order."""
    pattern = ".*".join(re.escape(part) for part in parts)
    return pytest.raises(nanoinfer.InputError, match=f"(?s){pattern}")


@pytest.fixture(scope="module")
def vit():
    """vit_b_32 but for its depth."""
    return nanoinfer.create_model("vit_b_32", "random", num_layers=1, threads=1)


IMAGE = np.zeros((1, 3, 32, 32), np.float32)


@pytest.mark.parametrize(
    "x, parts",
    [
        (IMAGE[0], ["shape (3, 32, 32)", "pass (N, 3, H, W), such as (1, 3, 224, 224)"]),
        (IMAGE[None], ["shape (1, 1, 3, 32, 32)", "pass (N, 3, H, W)"]),
        (np.zeros((), np.float32), ["shape ()", "pass (N, 3, H, W)"]),
        (IMAGE[:, :1], ["1 channels", "pass (N, 3, H, W)"]),
        (np.zeros((1, 4, 32, 32), np.float32), ["4 channels", "pass (N, 3, H, W)"]),
        (np.zeros((1, 32, 32, 3), np.float32), ["32 channels", "x.transpose(0, 3, 1, 2)"]),
        (IMAGE.astype(np.float64), ["float64", "x.astype(numpy.float32)"]),
        (IMAGE.astype(np.uint8), ["uint8", "x.astype(numpy.float32)"]),
        (IMAGE.astype(">f4"), [">f4", "x.astype(numpy.float32)"]),
        (IMAGE.astype(object), ["object", "float32"]),
        (IMAGE.tolist(), ["list", "pass a NumPy array of float32"]),
        (None, ["NoneType", "pass a NumPy array of float32"]),
        (torch.from_numpy(IMAGE), ["Tensor", "x.detach().cpu().numpy()"]),
        (IMAGE[:0], ["(0, 3, 32, 32)", "at least one image"]),
        (IMAGE[:, :, :0], ["(1, 3, 0, 32)", "holds nothing"]),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else value[0][:20],
)
def test_bad_input(random_model, x, parts):
    with refused(*parts) as error:
        random_model(x)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "size", [(192, 256), (225, 225), (256, 256), (224, 192), (32, 1568), (31, 31), (1, 1)], ids=str
)
def test_vit_takes_one_image_size(vit, size):
    x = np.zeros((1, 3, *size), np.float32)
    with refused(f"{size[0]} x {size[1]} pixels do not fit", "give images of 224 x 224 pixels") as error:
        vit(x)
    assert "\n" not in str(error.value)
    with pytest.raises(AssertionError), torch.no_grad():
        torchvision = import_torchvision()
        torchvision.models.vision_transformer.VisionTransformer(224, 32, 1, 12, 768, 3072)(torch.from_numpy(x))


def test_vit_of_another_image_size():
    model = nanoinfer.create_model("vit_b_32", "random", num_layers=1, image_size=96, threads=1)
    assert model(np.zeros((1, 3, 96, 96), np.float32)).shape == (1, 1000)
    with refused("give images of 96 x 96 pixels"):
        model(np.zeros((1, 3, 224, 224), np.float32))


def test_a_model_works_on_after_a_refusal(random_model):
    y = random_model(IMAGE)
    with refused("float64"):
        random_model(IMAGE.astype(np.float64))
    np.testing.assert_array_equal(random_model(IMAGE), y)


def test_unknown_taps(random_model):
    with refused("mobilenetv3_small_100 has no module 'blocks.2.9'; did you mean blocks.2") as error:
        random_model(IMAGE, taps=["blocks.2.1", "blocks.2.9"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "shape", [(1, 576), (1, 575, 7, 7), (1, 577, 7, 7), (1, 576, 7, 7, 1), (0, 576, 7, 7), (1, 50, 768)], ids=str
)
def test_bad_features(random_model, shape):
    with refused(str(shape)) as error:
        random_model.forward_head(np.zeros(shape, np.float32))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(1, 768), (1, 50, 767), (1, 50, 769), (1, 768, 7, 7), (768,)], ids=str)
def test_bad_tokens(vit, shape):
    with refused(str(shape)) as error:
        vit.forward_head(np.zeros(shape, np.float32))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (("mobilenetv3_smal_100",), ["'mobilenetv3_smal_100'", "did you mean mobilenetv3_small_100"]),
        (("zzz",), ["'zzz'", "nanoinfer models"]),
        ((["digits"],), ["no model is called ['digits']"]),
        ((None,), ["no model is called None"]),
        (("vit_b_32", None), ["vit_b_32 has no default weights", ".safetensors", "'random'"]),
        (("resnext50_32x4d", "random:x"), ["'random:x'", "a seed is a whole number, as in 'random:7'"]),
        (("resnext50_32x4d", "random:-1"), ["'random:-1'", "'random:7'"]),
        (("resnext50_32x4d", "random:\u00b2"), ["a seed is a whole number"]),
        (("resnext50_32x4d", "random:" + "1" * 5000), ["a seed is a whole number"]),
        (("resnext50_32x4d", "missing.safetensors"), ["missing.safetensors: no such file"]),
        (("resnext50_32x4d", 7), ["weights cannot be a int", "give a path"]),
    ],
    ids=repr,
)
def test_bad_models_and_sources(arguments, parts):
    with refused(*parts) as error:
        nanoinfer.create_model(*arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, arguments, parts",
    [
        ("mobilenet_v2", {"width": 0.5}, ["width=0.5", "mobilenet_v2 has no argument width", "width_mult"]),
        ("mobilenetv2_article", {"width": 0.01}, ["width=0.01", "every size must be at least 1"]),
        ("mobilenetv2_article", {"width": 0}, ["width=0", "give a number above 0"]),
        ("mobilenetv2_article", {"width": -1.0}, ["width=-1.0", "give a number above 0"]),
        ("mobilenetv2_article", {"width": float("nan")}, ["width=nan"]),
        ("mobilenetv2_article", {"width": float("inf")}, ["width=inf"]),
        ("mobilenetv2_article", {"width": "1"}, ["width='1': give a number above 0", "such as 1.0"]),
        ("vit_b_32", {"image_size": 64.0}, ["image_size=64.0: give a whole number above 0", "such as 224"]),
        ("vit_b_32", {"image_size": 225}, ["image_size=225 is not a multiple of the patch size 32"]),
        *(
            ("digits", {"num_classes": n}, [f"num_classes={n!r}: give a whole number from 1 on"])
            for n in (0, -1, "2", 2.5)
        ),
        *(("digits", {"threads": n}, [f"threads={n!r}: give a whole number from 1 on"]) for n in (0, -1, "2", 2.0)),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value)[:40],
)
def test_bad_arguments(name, arguments, parts):
    with refused(*parts) as error:
        nanoinfer.create_model(name, "random", **arguments)
    assert "\n" not in str(error.value)


def digits_arrays():
    return dict(nanoinfer.load_weights(DATA / "digits.safetensors"))


def test_a_file_that_does_not_fit_is_listed_in_full(tmp_path):
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
        with refused() as error:
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


def test_the_file_of_another_width():
    with refused(
        "0 tensors missing, 0 left over", "width and num_classes", "other shape fc.weight (10, 448), not (10, 640)"
    ):
        nanoinfer.create_model("mobilenetv2_article", DATA / "digits.safetensors", width=0.5, num_classes=10)


def test_the_file_of_another_network():
    with refused("does not fit the network", "missing     conv_stem.weight", "left over   fc.weight"):
        nanoinfer.create_model("mobilenetv3_small_100", DATA / "digits.safetensors")


@pytest.mark.parametrize("topk", [0, -1, "2", 2.5, None])
def test_bad_topk(topk):
    with refused(f"topk={topk!r}: give a whole number from 1 on"):
        nanoinfer.create_model("digits").predict(DATA / "digits" / "digit_3.png", topk=topk)


# Public names, and the model that ships


def test_public_names():
    for name in nanoinfer.__all__:
        assert getattr(nanoinfer, name) is not None
        assert name in dir(nanoinfer)
    assert issubclass(nanoinfer.InputError, ValueError)
    with pytest.raises(AttributeError, match="no_such_name"):
        nanoinfer.no_such_name  # noqa: B018


def test_list_models():
    assert set(NETWORKS) <= set(nanoinfer.list_models())
    assert nanoinfer.list_models() == list(MODELS)
    assert nanoinfer.list_models("mobilenetv3_small_*") == [
        "mobilenetv3_small_050",
        "mobilenetv3_small_075",
        "mobilenetv3_small_100",
    ]
    assert nanoinfer.list_models("digits") == ["digits"]
    assert nanoinfer.list_models("nothing*") == []


def test_weights_from_a_mapping_and_from_seeds():
    model = nanoinfer.create_model("digits")
    x = np.random.default_rng(0).standard_normal((1, 3, 96, 96), np.float32)
    y = model(x)
    np.testing.assert_array_equal(nanoinfer.create_model("digits", digits_arrays())(x), y)
    tensors = {name: torch.from_numpy(array.copy()) for name, array in digits_arrays().items()}
    np.testing.assert_array_equal(nanoinfer.create_model("digits", tensors)(x), y)
    first, again, other = (nanoinfer.create_model("digits", f"random:{seed}")(x) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.isfinite(first).all() and not np.array_equal(first, other)
    np.testing.assert_array_equal(
        nanoinfer.create_model("digits", "random")(x), nanoinfer.create_model("digits", "random:0")(x)
    )


def test_num_classes_and_labels():
    model = nanoinfer.create_model("mobilenetv3_small_100", "random", num_classes=7)
    assert model.classes == 7 and model(IMAGE).shape == (1, 7)
    [best] = model.top(model(IMAGE), 9)
    assert sorted(label for label, _, _ in best) == [f"class {index}" for index in range(7)]
    assert sum(probability for _, _, probability in best) == pytest.approx(1)


def test_predict_takes_paths_images_and_arrays():
    model = nanoinfer.create_model("digits")
    path = DATA / "digits" / "digit_3.png"
    array = np.asarray(Image.open(path).convert("RGB"))
    expected = model.predict(path)
    assert expected[0][0][:2] == ("3", 3) and len(expected[0]) == 5
    assert model.predict(str(path)) == model.predict(Image.open(path)) == model.predict(array) == expected
    assert model.predict([path, array, Image.open(path)]) == 3 * expected
    [best] = model.predict([path], topk=10)
    probabilities = [probability for _, _, probability in best]
    assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) == pytest.approx(1)
    assert [(label, index) for label, index, _ in sorted(best, key=lambda row: row[1])] == [
        (str(i), i) for i in range(10)
    ]


def test_ten_samples_with_at_most_one_wrong():
    model = nanoinfer.create_model("digits")
    paths = sorted((DATA / "digits").glob("*.png"))
    assert [path.name for path in paths] == [f"digit_{digit}.png" for digit in range(10)]
    found = [best[0][1] for best in model.predict(paths, topk=1)]
    assert sum(index != digit for digit, index in enumerate(found)) <= 1, found


def test_the_recorded_accuracy_is_reached():
    record = json.loads((DATA / "digits.json").read_text())
    with np.load(DATA / "digits_test.npz") as file:
        scans, labels = file["scans"], file["labels"]
    model = nanoinfer.create_model("digits")
    # A scan has values 0 to 16.
    images = [Image.fromarray(np.rint(scan * (255 / 16)).astype(np.uint8)) for scan in scans]
    found = np.concatenate([model(model.preprocess(images[i : i + 45])).argmax(1) for i in range(0, len(images), 45)])
    correct = int((found == labels).sum())
    assert (correct, len(labels)) == (record["correct"], record["total"])
    assert correct / len(labels) == record["accuracy"] >= 0.98


def test_program_and_graph_print():
    model = nanoinfer.create_model("digits")
    assert "fc = linear(" in str(model.graph)
    text = str(model.program((2, 3, 96, 96)))
    assert "convolution" in text or "matmul" in text
    assert repr(model).startswith("<nanoinfer digits, 10 classes")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mobilenetv2_050", {"depth": 0}),
        ("mobilenetv2_050", {"depth": 1e9}),
        ("mobilenet_v2", {"width_mult": -1.0}),
        ("vit_b_32", {"num_layers": 0}),
        ("vit_b_32", {"num_heads": -4}),
        ("vit_b_32", {"num_layers": True}),
    ],
    ids=str,
)
def test_senseless_arguments_of_an_architecture(name, arguments):
    (argument,) = arguments
    with refused(f"{argument}=", "number above 0"):
        nanoinfer.create_model(name, "random", **arguments)


def test_names_from_a_file_are_shown_without_control_characters():
    with pytest.raises(nanoinfer.InputError) as error:
        nanoinfer.create_model("digits", {"a\x1b[31mb\n  missing": np.zeros(1, np.float32)})
    assert "\x1b" not in str(error.value) and "\n  missing (" not in str(error.value)


def test_a_model_can_be_pickled_and_copied():
    model = nanoinfer.create_model("digits")
    x = np.random.default_rng(0).standard_normal((1, 3, 96, 96), np.float32)
    expected = model(x)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(other(x), expected)


def test_logits_are_checked():
    model = nanoinfer.create_model("digits")
    for wrong in (np.zeros(10, np.float32), np.zeros((1, 0), np.float32), [1.0]):
        with refused("logits are an array (N, classes)"):
            model.top(wrong)
    for taps in (3, None, [[1]]):
        with refused("no module"):
            model(np.zeros((1, 3, 96, 96), np.float32), taps=taps)
