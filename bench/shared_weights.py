"""Memory of several workers with one network: their proportional set sizes, with packed weights shared and without.

    python -m bench.shared_weights [--model vit_b_32] [--workers 8]

Every worker is a process of its own that has run one image. A page counts for each process by its part of it (PSS), so
the sum is what all take together. Exit code 1: logits differ, or shared ones take more than half.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from nanoinfer.weights import save_safetensors

import nanoinfer

WORKER = """
import sys
import numpy as np
import nanoinfer
name, weights, share = sys.argv[1:]
model = nanoinfer.create_model(name, weights, threads=1, share_weights=share == "True")
print(model.fingerprint(np.full((1, 3, *model.preprocessing.crop), 0.5, np.float32)), flush=True)
sys.stdin.readline()
"""


def pss(pid: int) -> float:
    """Proportional set size of a process in MiB (Linux)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def measure(name: str, weights: str, share: bool, workers: int) -> tuple[set[str], list[float]]:
    """(fingerprints, PSS of each in MiB) of workers that all run at once."""
    command = [sys.executable, "-c", WORKER, name, weights, str(share)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(workers)
    ]
    try:
        found = {process.stdout.readline().strip() for process in processes}
        return found, [pss(process.pid) for process in processes]
    finally:
        for process in processes:
            process.communicate("\n")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_b_32")
    parser.add_argument("--workers", type=int, default=8)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        weights = f"{folder}/weights.safetensors"
        tensors = nanoinfer.create_model(arguments.model, "random").tensors
        save_safetensors({name: np.asarray(tensor) for name, tensor in tensors.items()}, weights)
        del tensors
        sums, fingerprints = [], set()
        for share in (False, True):
            found, sizes = measure(arguments.model, weights, share, arguments.workers)
            fingerprints |= found
            sums.append(sum(sizes))
            print(f"{arguments.workers} workers of {arguments.model}, {'shared' if share else 'not shared'}: ", end="")
            print(f"{max(sizes):,.0f} MiB each at most, {sums[-1]:,.0f} MiB together")
    if len(fingerprints) != 1 or "" in fingerprints:
        print(f"fingerprints differ: {sorted(fingerprints)}")
        return 1
    return int(sums[1] > sums[0] / 2)


if __name__ == "__main__":
    sys.exit(main())
