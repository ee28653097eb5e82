"""A file of weights with a config.json, for all tests of this folder."""

import pytest

from tests.pretrained.timm_files import saved, timm_module


@pytest.fixture(scope="module")
def published_file(tmp_path_factory):
    """Weights of timm's with a config.json that says other things than the architecture's default."""
    module = timm_module(num_classes=3)
    module.pretrained_cfg.update(crop_pct=0.95, crop_mode="squash", interpolation="bilinear", mean=(0.0,) * 3)
    names = {"label_names": ["n1", "n2", "n3"], "label_descriptions": {"n1": "tench, Tinca tinca", "n3": "a\x1b[31m"}}
    return saved(tmp_path_factory.mktemp("published"), module, **names), module
