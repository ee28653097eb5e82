"""config.json of any content: what it says, or an InputError, and nothing else."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from nanoinfer import InputError
from nanoinfer.pretrained.config import read_config
from nanoinfer.pretrained.labels import read_labels
from nanoinfer.pretrained.records import Config

KEYS = (
    *("architecture", "num_classes", "label_names", "labels", "label_descriptions", "model_args", "pretrained_cfg"),
    *("input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std", "global_pool", "in_chans", "model_type"),
    *("id2label", "preprocessor_config", "size", "crop_size", "height", "width", "shortest_edge", "do_center_crop"),
    *("do_normalize", "image_mean", "image_std", "resample", "rescale_factor", "image_processor_type", "0", "1"),
)
SCALARS = (None, True, False, 0, 1, 3, 224, -1, 0.5, 0.875, 1e300, float("nan"), "", "bicubic", "squash", "x\x1b[2J\n")
VALUES = st.recursive(
    st.sampled_from((*SCALARS, "resnet50", "ConvNextImageProcessor")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=8)
SEEDS = ({"architecture": "resnet50"}, {"architecture": "resnet50", "pretrained_cfg": {}}, {"model_type": "resnet"}, {})


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SEEDS), OBJECTS, OBJECTS)
def test_any_config_is_read_or_refused(seed, config, inner):
    nested = {"pretrained_cfg": inner} if "pretrained_cfg" in seed else {"preprocessor_config": inner}
    try:
        found = read_config({**config, **seed, **nested}, "w.pth")
    except InputError as error:
        assert str(error).startswith("w.pth: its ") and str(error).isprintable()
    else:
        assert isinstance(found, Config) and all(label.isprintable() for label in found.labels or ())


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_any_file_of_labels_is_read_or_refused(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "labels.json"
    path.write_text(json.dumps(value))
    try:
        labels = read_labels(path)
    except InputError as error:
        assert str(error).isprintable()
    else:
        assert labels and all(isinstance(label, str) and label.isprintable() for label in labels)


def test_nothing_is_read_from_nothing():
    assert read_config(None, "w.pth") == read_config({}, "w.pth") == Config()
