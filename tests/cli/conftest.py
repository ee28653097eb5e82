"""Commands in this process, with networks that need no kernels."""

import sys
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from nanoinfer import InputError, cli
from nanoinfer.architectures import MODELS
from nanoinfer.data import labels
from nanoinfer.image import preprocess


class FakeModel:
    """Stands in for Model: its n-th call predicts class n, after the last class the first again."""

    def __init__(self, name, weights, threads):
        self.architecture, self.weights, self.threads, self.shapes = MODELS[name], weights, threads, []

    def preprocess(self, images):
        return preprocess(images, self.architecture.preprocessing)

    def __call__(self, x):
        self.shapes.append(x.shape)
        logits = np.zeros((len(x), self.architecture.arguments["num_classes"]), np.float32)
        logits[:, (len(self.shapes) - 1) % logits.shape[1]] = 5
        return logits

    def top(self, logits, topk):
        names = labels(self.architecture.labels, logits.shape[1])
        best = np.argsort(-logits, kind="stable")[:, :topk]
        return [
            [(names[i], int(i), float(row[i]) / 10) for i in order] for order, row in zip(best, logits, strict=True)
        ]


@pytest.fixture
def models(monkeypatch):
    """Every model that the command made; nothing is compiled."""
    made = []

    def create_model(name, weights=None, *, num_classes=None, threads=None):
        if name not in MODELS:
            raise InputError(f"unknown model {name!r}")
        made.append(FakeModel(name, weights, threads))
        return made[-1]

    module = ModuleType("nanoinfer.model")
    module.create_model = create_model
    monkeypatch.setitem(sys.modules, "nanoinfer.model", module)
    return made


@pytest.fixture
def run(capsys):
    """run("predict", ...) -> (exit code, standard output, standard error)."""

    def run(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def photo(tmp_path):
    Image.new("RGB", (300, 200), "red").save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"
