"""Public names, the list of models, and what a Model offers besides calls."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest

import nanoinfer
from nanoinfer.architectures import MODELS
from nanoinfer.machine import host
from tests.helpers import NETWORKS, random_images


def test_public_names():
    for name in nanoinfer.__all__:
        assert getattr(nanoinfer, name) is not None
        assert name in dir(nanoinfer)
    assert issubclass(nanoinfer.InputError, ValueError)
    with pytest.raises(AttributeError, match="no_such_name"):
        nanoinfer.no_such_name  # noqa: B018


def test_list_models_by_pattern():
    assert set(NETWORKS) <= set(nanoinfer.list_models())
    assert nanoinfer.list_models() == list(MODELS)
    assert nanoinfer.list_models("mobilenetv3_small_*") == [
        "mobilenetv3_small_050",
        "mobilenetv3_small_075",
        "mobilenetv3_small_100",
    ]
    assert nanoinfer.list_models("digits") == ["digits"]
    assert nanoinfer.list_models("nothing*") == []


def test_num_classes_and_labels():
    model = nanoinfer.create_model("mobilenetv3_small_100", "random", num_classes=7)
    logits = model(np.zeros((1, 3, 32, 32), np.float32))
    assert model.classes == 7 and logits.shape == (1, 7)
    [best] = model.top(logits, 9)
    assert sorted(label for label, _, _ in best) == [f"class {index}" for index in range(7)]
    assert sum(probability for _, _, probability in best) == pytest.approx(1)


def test_graph_program_and_model_print():
    model = nanoinfer.create_model("digits")
    assert "fc = linear(" in str(model.graph)
    text = str(model.program((2, 3, 96, 96)))
    assert "convolution" in text or "matmul" in text
    assert repr(model).startswith("<nanoinfer digits, 10 classes")


def test_copies_of_a_model_planned_for_another_machine_keep_it():
    other = replace(host(), l2_bytes=1 << 16)
    model = nanoinfer.create_model("digits")
    assert pickle.loads(pickle.dumps(model)).machine is host()
    for copied in (pickle.loads(pickle.dumps(model.planned_for(other))), copy.copy(model.planned_for(other))):
        assert copied.machine == other


def test_model_can_be_pickled_and_copied():
    model = nanoinfer.create_model("digits")
    x = random_images()
    expected = model(x)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(other(x), expected)
