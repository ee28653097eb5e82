"""Fingerprints of whole networks: a table of bits that hold on every machine, at every vector width."""

from __future__ import annotations

import json

import numpy as np

from ..checkpoint import random_numbers
from ..data import FOLDER
from ..machine import Machine, host
from ..model import create_model

TABLE = FOLDER / "fingerprints.json"
NETWORKS = {  # name: (arguments, input shape)
    "mobilenetv2_140": ({}, (2, 3, 96, 64)),
    "mobilenetv3_small_100": ({}, (2, 3, 96, 64)),
    "resnext50_32x4d": ({}, (1, 3, 96, 64)),
    "vit_b_32": ({"image_size": 64, "num_layers": 3}, (2, 3, 64, 64)),
    "mobilenetv2_article": ({}, (1, 3, 65, 63)),
    "digits": ({}, (3, 3, 96, 96)),
}


def expected() -> dict[str, str]:
    """{network: its fingerprint}, as the package holds them."""
    return json.loads(TABLE.read_text(encoding="utf-8"))


def fingerprint(name: str, threads: int | None = 2, machine: Machine | None = None) -> str:
    """The fingerprint of a network of the table, with its own weights or random ones, planned for a machine or this."""
    arguments, shape = NETWORKS[name]
    weights = None if name == "digits" else "random:7"
    model = create_model(name, weights, threads=threads, **arguments).planned_for(machine or host())
    return model.fingerprint(random_numbers(np.random.PCG64(11), shape))
