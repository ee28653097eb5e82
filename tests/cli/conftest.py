"""Commands in this process, with networks that need no kernels."""

import sys
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from nanoinfer.architectures import MODELS
from nanoinfer.data import labels
from nanoinfer.image import preprocess
from nanoinfer.pretrained import Meaning


class FakeModel:
    """Stands in for Model: its n-th call predicts class n, after the last class the first again."""

    channels = 3
    tensors: dict = {}

    def __init__(self, name, weights, threads, options):
        self.architecture, self.weights, self.threads, self.options = MODELS[name], weights, threads, options
        self.name, self.shapes, self.preprocessing = name, [], self.architecture.preprocessing
        self.classes = options.get("num_classes", self.architecture.arguments["num_classes"])
        self.labels = tuple(labels(self.architecture.labels, self.classes))
        self.meaning = Meaning(str(weights), self.preprocessing, self.labels, "their names")

    def preprocess(self, images):
        return preprocess(images, self.preprocessing)

    def __call__(self, x):
        self.shapes.append(x.shape)
        logits = np.zeros((len(x), self.classes), np.float32)
        logits[:, (len(self.shapes) - 1) % logits.shape[1]] = 5
        return logits

    def top(self, logits, topk):
        best = np.argsort(-logits, kind="stable")[:, :topk]
        return [
            [(self.labels[i], int(i), float(row[i]) / 10) for i in order]
            for order, row in zip(best, logits, strict=True)
        ]

    def embed(self, x):
        self.shapes.append(x.shape)
        return np.arange(5, dtype=np.float32) / 3 + np.arange(1, len(x) + 1, dtype=np.float32)[:, None]


@pytest.fixture
def models(monkeypatch):
    """Every model that the command made; nothing is compiled."""
    made = []

    def create_model(name, weights=None, *, threads=None, **options):
        made.append(FakeModel(name, weights, threads, options))
        return made[-1]

    module = ModuleType("nanoinfer.model")
    module.create_model = create_model
    monkeypatch.setitem(sys.modules, "nanoinfer.model", module)
    return made


@pytest.fixture
def photo(tmp_path):
    Image.new("RGB", (300, 200), "red").save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"
