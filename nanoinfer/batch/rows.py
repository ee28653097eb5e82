"""What a run makes of an image: a row; and what its rows have in common."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ..errors import InputError, printable
from ..weights import tensors_hash

HASH_DIGITS = 16


class Row(NamedTuple):
    """The result of one image: `top` or `vector`, or else an `error` of one line.

    top: (label, index, probability) in falling order. vector: float32 (D,). milliseconds: the network's time for it.
    """

    path: str
    top: list[tuple[str, int, float]] | None = None
    vector: np.ndarray | None = None
    error: str | None = None
    milliseconds: float = 0.0


class Job(NamedTuple):
    """A network and what is asked of it: the `topk` most probable classes, or with None the embedding."""

    model: object
    topk: int | None

    def answers(self, x: np.ndarray) -> tuple[np.ndarray, float]:
        """(logits or embeddings, milliseconds an image) of float32 (N, C, H, W)."""
        start = time.perf_counter()
        answers = self.model.embed(x) if self.topk is None else self.model(x)
        return answers, 1000 * (time.perf_counter() - start) / len(x)

    def rows(self, paths: list[str], answers: np.ndarray, milliseconds: float) -> list[Row]:
        """A row for each image, of what `answers` returned."""
        return [row._replace(milliseconds=milliseconds) for row in self._rows(paths, answers)]

    def _rows(self, paths: list[str], answers: np.ndarray) -> list[Row]:
        if self.topk is None:
            return [Row(path, vector=vector) for path, vector in zip(paths, answers, strict=True)]
        topk = min(self.topk, len(self.model.labels))
        try:
            return [Row(path, top) for path, top in zip(paths, self.model.top(answers, topk), strict=True)]
        except InputError:  # one answer that is no number; the others are as good as alone
            return [self._row(path, answers[i : i + 1], topk) for i, path in enumerate(paths)]

    def _row(self, path: str, logits: np.ndarray, topk: int) -> Row:
        try:
            return Row(path, self.model.top(logits, topk)[0])
        except InputError as error:
            return Row(path, error=f"{printable(path)}: {error}")


class About(NamedTuple):
    """What all rows of a file share. A run goes on only with rows that share it.

    task: "predict" or "embed". weights: `weights_hash`. labels: their hash, since rows hold them.
    """

    task: str
    model: str
    weights: str
    preprocessing: str
    topk: int | None
    labels: str


def about(job: Job, weights: str | None = None) -> About:
    """What the rows of a job share; this reads all weights, unless their hash is known."""
    model, predicts = job.model, job.topk is not None
    return About(
        "predict" if predicts else "embed",
        model.name,
        weights or weights_hash(model.tensors),
        str(model.preprocessing),
        min(job.topk, len(model.labels)) if predicts else None,
        _digest("\n".join(model.labels).encode("utf-8", "surrogatepass")) if predicts else "",
    )


def weights_hash(tensors: Mapping[str, np.ndarray]) -> str:
    """The first digits of the SHA-256 of all tensors.

    It is that of the numbers, not of a file: a copy in another format has the same.
    """
    return tensors_hash(tensors)[:HASH_DIGITS]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:HASH_DIGITS]
