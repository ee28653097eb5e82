"""Prints the fingerprints of all networks, as the package holds them.

    python -m tests.models.fingerprints > fingerprints.json && mv fingerprints.json nanoinfer/data/

It is run again when an order of operations changes on purpose, or random weights do.
"""

import json

from nanoinfer.doctor.fingerprints import NETWORKS, fingerprint

if __name__ == "__main__":
    print(json.dumps({name: fingerprint(name) for name in NETWORKS}, indent=2))
