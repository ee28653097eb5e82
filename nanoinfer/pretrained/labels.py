"""The names of classes: given, from a file, from config.json, or those of a data set; and the most probable of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from ..architectures import Architecture
from ..data import labels
from ..errors import InputError, printable
from ..graph import Graph
from ..graph.variants import head

LARGEST_FILE = 1 << 26  # characters


def labels_of(architecture: Architecture, graph: Graph, tensors: Mapping, given, stated: tuple[str, ...] | None):
    """(a name for each class, where they come from, notes); two names for a single logit, none without a head.

    `given` are the caller's names, or the path of a file of them; `stated` are those of config.json.
    """
    node, notes = head(graph), []
    if node is None:
        if given is not None:
            raise InputError(f"{architecture.name} without a head has no classes, and takes no labels")
        return (), "", notes
    count = len(tensors[node.tensors["weight"]])
    shown = max(count, 2)
    if given is not None:
        names, said = _given(given)
        if count == 1 and len(names) == 1:
            names = (f"not {names[0]}", names[0])
        if len(names) != shown:
            raise InputError(f"{said} gives {len(names)} labels, but the network has {count} classes; give as many")
        return names, said, notes
    if stated and count == 1 and len(stated) == 1:
        return (f"not {stated[0]}", stated[0]), "config.json", notes
    if stated and len(stated) <= shown:
        names = (*stated, *[""] * (shown - len(stated)))
        return tuple(name or f"class {index}" for index, name in enumerate(names)), "config.json", notes
    if stated:
        notes.append(f"has {len(stated)} labels in config.json for a head of {count} classes: they are not used")
    names = tuple(labels(architecture.labels, shown))
    known = "the numbers of the classes" if names[0] == "class 0" else f"the names of {architecture.labels}"
    return names, known, notes


def _given(given) -> tuple[tuple[str, ...], str]:
    """Names that the caller gives, a sequence or the path of a file, and what to call them."""
    if isinstance(given, (str, os.PathLike)):
        return read_labels(given), printable(os.fspath(given))
    if not isinstance(given, Sequence) or not all(isinstance(name, str) for name in given):
        raise InputError("labels are a sequence of names, or the path of a file with a name on each line")
    return tuple(map(printable, given)), "labels"


def read_labels(path) -> tuple[str, ...]:
    """The class names of a file: a name on each line, or JSON.

    JSON is a list of names, or an object {number of a class: name} or {name: number}, perhaps as "id2label" or
    "label_names" of a larger one. A name may be a list whose last item counts, as in Keras's imagenet_class_index.json.
    Raises InputError for a file that cannot be read, or has no names.
    """
    import json

    from .config import label_list

    name = printable(path)
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(LARGEST_FILE)
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL character in the path
        reason = getattr(error, "strerror", None) or "is no text in UTF-8"
        raise InputError(f"{name}: {reason}; labels are lines of text, or JSON") from None
    if text.lstrip()[:1] in ("[", "{"):
        try:
            names = json.loads(text)
        except (ValueError, RecursionError):
            raise InputError(f"{name}: is no JSON, although it starts like it; check the file") from None
        labels = label_list(_plain(names), name)
    else:
        labels = tuple(printable(line.strip()) for line in text.splitlines() if line.strip())
    if not labels:
        raise InputError(f"{name}: has no labels; write one on each line")
    return labels


def _plain(names):
    """The list, or the object {number: name}, in what a JSON file of labels holds."""
    if isinstance(names, dict):
        for key in ("id2label", "label_names", "labels", "classes", "class_to_idx", "label2id"):
            if isinstance(names.get(key), (dict, list)):
                return _plain(names[key])
        if names and all(isinstance(value, int) for value in names.values()):
            return {str(number): name for name, number in names.items()}
        return {number: _last(name) for number, name in names.items()}
    return [_last(name) for name in names]


def _last(name):
    return name[-1] if isinstance(name, list) and name else name


def most_probable(logits: np.ndarray, names: Sequence[str], topk: int) -> list[list[tuple[str, int, float]]]:
    """For each row of logits (N, classes) the `topk` most probable classes, as (label, index, probability).

    Probabilities are the softmax of the logits; of a single one its sigmoid, that of class 1 of two. Raises InputError
    where they are no numbers.
    """
    logits = logits.astype(np.float64)
    if logits.shape[1] == 1:  # the softmax of (0, z) is (1 - sigmoid(z), sigmoid(z))
        logits = np.concatenate([np.zeros_like(logits), logits], 1)
    with np.errstate(invalid="ignore"):  # inf - inf
        weights = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = weights / weights.sum(1, keepdims=True)
    bad = np.flatnonzero(np.isnan(probabilities).any(1))
    if bad.size:
        which = f" for image {bad[0] + 1} of {len(logits)}" if len(logits) > 1 else ""
        raise InputError(f"the network's answer{which} is no number; check the weights")
    order = np.argsort(-probabilities, 1, kind="stable")[:, :topk]
    return [[(names[i], int(i), float(row[i])) for i in best] for row, best in zip(probabilities, order, strict=True)]
