"""Prints the fingerprints of all networks of tests/data/fingerprints.json, as that file has them.

    python -m tests.models.fingerprints > tests/data/fingerprints.json

It is run again when an order of operations changes on purpose, or random weights do.
"""

import json

import numpy as np

import nanoinfer
from nanoinfer.checkpoint import random_numbers

NETWORKS = {  # name: (arguments, input shape)
    "mobilenetv2_140": ({}, (2, 3, 96, 64)),
    "mobilenetv3_small_100": ({}, (2, 3, 96, 64)),
    "resnext50_32x4d": ({}, (1, 3, 96, 64)),
    "vit_b_32": ({"image_size": 64, "num_layers": 3}, (2, 3, 64, 64)),
    "mobilenetv2_article": ({}, (1, 3, 65, 63)),
    "digits": ({}, (3, 3, 96, 96)),
}


def fingerprint(name, threads=2):
    arguments, shape = NETWORKS[name]
    weights = None if name == "digits" else "random:7"
    model = nanoinfer.create_model(name, weights, threads=threads, **arguments)
    return model.fingerprint(random_numbers(np.random.PCG64(11), shape))


if __name__ == "__main__":
    print(json.dumps({name: fingerprint(name) for name in NETWORKS}, indent=2))
