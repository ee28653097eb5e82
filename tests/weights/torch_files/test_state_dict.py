"""Which entry of a checkpoint holds the weights, and which prefixes are removed; what is said of it."""

import numpy as np
import pytest
import torch
from nanoinfer.weights import load_weights, read_weights
from nanoinfer.weights.names import PREFIXES, plain_names

from nanoinfer.architectures import MODELS
from tests.weights.files import refused_source, write_checkpoint

A, B, C = ({"w": torch.tensor(float(number))} for number in (1, 2, 3))


def saved(tmp_path, content):
    torch.save(content, tmp_path / "m.pth")
    return tmp_path / "m.pth"


@pytest.mark.parametrize(
    "content, value, note",
    [
        ({"state_dict": A, "state_dict_ema": B}, 2, "'state_dict_ema'; add #state_dict to the path"),
        ({"model": A, "model_ema": B}, 2, "'model_ema'; add #model to the path"),
        ({"model_ema": A, "state_dict_ema": B, "state_dict": C}, 2, "'state_dict_ema'"),  # timm's order
        ({"state_dict": A, "state_dict_ema": None}, 1, None),
        ({"state_dict": A, "state_dict_ema": {}}, 1, None),
        ({"params": A, "params_ema": B}, 2, "'params_ema'; add #params"),
        ({"net": A, "state_dict": B}, 2, "takes the weights 'state_dict'; add #net to the path for the others"),
        ({"state_dict": {"model": A, "ema": {"module": B}}}, 2, "'ema'; add #model"),
        ({"state_dict": A, "rng": torch.ones(2), "model": None}, 1, None),
        ({"model": A, "generator": B}, 1, None),
        ({"generator": A, "optimizer": {"state": {0: B}}}, 1, "'generator', the only entry of named tensors"),
        ([{"epoch": 1}, A], 1, "'1', the only entry"),
    ],
)
def test_choice_of_an_entry_is_said(tmp_path, content, value, note):
    weights = read_weights(saved(tmp_path, content))
    assert np.asarray(weights.arrays["w"]) == value
    assert len(weights.notes) == (note is not None) and (note or "") in "".join(weights.notes)


def test_entry_behind_the_path_is_taken_and_unwrapped(tmp_path):
    path = saved(tmp_path, {"ema": {"model": B, "updates": 3}, "model": A, "a#b": C, "x": {"y": 1}})
    for key, value in (("ema", 2), ("model", 1)):
        weights = read_weights(f"{path}#{key}")
        assert np.asarray(weights.arrays["w"]) == value and weights.notes == () and weights.name.endswith(f"#{key}")
    assert load_weights(f"{saved(tmp_path, (A, B))}#1")["w"] == 2
    path = saved(tmp_path, {"ema": B, "x": {"y": 1}})
    for key in ("x", "none", ""):
        refused_source(f"{path}#{key}", "m.pth: has no weights under", "its entries with weights are 'ema'")
    refused_source(f"{saved(tmp_path, A)}#model", "give the path without '#'")
    refused_source(f"{tmp_path}/absent.pth#model", "absent.pth#model: no such file")


def test_dict_in_itself_is_not_followed_for_ever(tmp_path):
    model = b"X\x05\x00\x00\x00model"
    for program in (b"}q\x00" + model + b"h\x00s.", b"}q\x00" + model + b"}" + model + b"h\x00ss."):
        write_checkpoint(tmp_path / "m.pth", b"\x80\x02" + program)
        refused_source(tmp_path / "m.pth", "'model' is a dict, not a named tensor")


def test_wrappers_are_followed_to_a_depth(tmp_path):
    content = A
    for _ in range(6):
        content = {"model": content}
    assert load_weights(saved(tmp_path, content))["w"] == 1
    refused_source(saved(tmp_path, {"model": content}), "'model' is a dict")


def test_many_candidates_are_not_all_listed(tmp_path):
    path = saved(tmp_path, {f"part{number}": A for number in range(14)})
    refused_source(path, "'part0', 'part1'", "'part9' and 4 more; choose one, as in PATH#part0")


def test_prefix_of_all_names_is_removed_and_said():
    names = {f"module._orig_mod.{name}": [1.0] for name in ("a.weight", "a.bias")}
    weights = read_weights(names)
    assert list(weights.arrays) == ["a.weight", "a.bias"]
    assert weights.notes == ("removes the prefix 'module._orig_mod.' of all names",) and weights.name == "weights"
    for prefix in PREFIXES:
        assert list(load_weights({f"{prefix}a": [1.0], f"{prefix}b": [1.0]})) == ["a", "b"]


@pytest.mark.parametrize(
    "names, expected",
    [
        (["module.a", "b"], ["module.a", "b"]),
        (["model.a", "net.b"], ["model.a", "net.b"]),
        (["model.", "model.a"], ["model.", "model.a"]),
        (["module.a", "n_averaged"], ["a"]),
        (["module.a", "steps", "n_averaged"], ["a"]),
        (["a", "n_averaged"], ["a", "n_averaged"]),
        (["n_averaged"], ["n_averaged"]),
        (["vit.a", "vit.b"], ["vit.a", "vit.b"]),
        (["module." * 10 + "a"], ["module.module.a"]),
        ([], []),
    ],
)
def test_other_names_stay(names, expected):
    assert list(load_weights(dict.fromkeys(names, [1.0]))) == expected


def test_names_of_the_networks_stay():
    for row in MODELS.values():
        graph = row.graph()
        names = {**graph.parameters, **graph.buffers}
        assert plain_names(names) == (names, []), row.name
