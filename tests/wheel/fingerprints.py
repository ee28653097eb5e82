"""What a wheel and the checkout must agree on: all networks at 224 pixels and at five odd sizes.

FINGERPRINTS is a script that prints [{network and size: fingerprint}, the places that kernels came from].
"""

from tests.helpers import NETWORKS

SIZES = [(224, 224), (97, 131), (33, 64), (161, 75), (250, 199), (129, 288)]
PATCHES = [7, 1, 2, 3, 5, 11]  # of vit_b_32, a side of its square images
FINGERPRINTS = f"""
import json
import numpy as np
import nanoinfer
from nanoinfer.kernels.jit import library

def fingerprint(model, size):
    return model.fingerprint(np.random.default_rng(1).standard_normal((2, 3, *size), np.float32))

found = {{}}
for name in {[name for name in NETWORKS if name != "vit_b_32"]!r}:
    model = nanoinfer.create_model(name, "random:5", threads=2)
    for size in {SIZES!r}:
        found[f"{{name}} {{size}}"] = fingerprint(model, size)
for side in {PATCHES!r}:
    model = nanoinfer.create_model("vit_b_32", "random:5", threads=2, image_size=32 * side)
    found[f"vit_b_32 {{32 * side}}"] = fingerprint(model, (32 * side, 32 * side))
print(json.dumps([found, sorted(set(library.origins().values()))]))
"""
