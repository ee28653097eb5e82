"""Throughput and memory of a run over many images, against what decoding and the network alone allow.

    python -m bench.archive                            # images per second: decoding, the network, and the whole
    python -m bench.archive --memory --images 100000   # resident memory of `nanoinfer predict` as it goes

Both use JPEG files that it makes. Decoding and the network share the cores, so neither can be hidden behind the other:
where decoding alone takes d seconds an image on all cores, and the network e, a run takes at least d + e, and the whole
is given in percent of the 1 / (d + e) images per second that this allows. The three take turns within a round, and
medians over rounds count. With --memory the images lie in a tar file, as an archive has them, and the run is one of the
command line in a process of its own.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from nanoinfer import create_model
from nanoinfer.batch.items import Item
from nanoinfer.batch.pipeline import Options, rows
from nanoinfer.batch.rows import Job

DISTINCT = 64  # images that differ; an archive repeats them
LIMIT_MIB = 600


def jpegs(size: tuple[int, int], count: int = DISTINCT) -> list[bytes]:
    """JPEG files of (width, height) with smooth and rough parts, as photographs have them."""
    random, contents = np.random.default_rng(0), []
    for _ in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (9, 12, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
        pixels = np.asarray(coarse) + random.normal(0, 6, (size[1], size[0], 1))
        buffer = io.BytesIO()
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        contents.append(buffer.getvalue())
    return contents


def throughput(arguments: argparse.Namespace) -> int:
    """Print images per second of decoding alone, the network alone and the whole; 1 if it is less than --least."""
    model = create_model(arguments.model, "random", threads=arguments.threads)
    contents = jpegs(tuple(arguments.size))
    items = [Item(f"{n}.jpg", contents[n % DISTINCT]) for n in range(arguments.images)]
    options = Options(arguments.batch_size, model.threads)
    starts = range(0, len(items), 4)  # four at a time, so that handing them out costs next to nothing
    x = model.preprocess(contents[: arguments.batch_size])
    pool, batches = ThreadPoolExecutor(model.threads), [[item.source for item in items[n : n + 4]] for n in starts]
    job, rates = Job(model, 5), {"decoding": [], "network": [], "whole": []}
    ways = {
        "decoding": lambda: sum(map(len, pool.map(model.preprocess, batches))),
        "network": lambda: sum(len(model(x)) for _ in range(len(items) // len(x))),
        "whole": lambda: sum(row.error is None for row in rows(items, job, options)),
    }
    model(x)
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            done = way()
            rates[name].append(done / (time.perf_counter() - start))
    width, height = arguments.size
    print(f"{model.name}, {model.threads} threads, batch {options.batch}, JPEG of {width} x {height}, ", end="")
    print(f"{len(items)} images, {arguments.rounds} rounds")
    allowed = [1 / (1 / d + 1 / e) for d, e in zip(rates["decoding"], rates["network"], strict=True)]
    for name, values in {**rates, "allowed": allowed}.items():
        print(f"{name:<9} {statistics.median(values):8.1f} images/s")
    share = statistics.median(w / a for w, a in zip(rates["whole"], allowed, strict=True))
    print(f"the whole is {share:.1%} of what is allowed, 1 / (1 / decoding + 1 / network)")
    return int(share < arguments.least)


def memory(arguments: argparse.Namespace) -> int:
    """Print the resident memory of nanoinfer predict over a tar file as it goes; 1 if it exceeds LIMIT_MIB."""
    with tempfile.TemporaryDirectory() as folder:
        archive, output = Path(folder, "images.tar"), Path(folder, "out.jsonl")
        contents = jpegs(tuple(arguments.size))
        with tarfile.open(archive, "w") as tar:
            for number in range(arguments.images):
                member = tarfile.TarInfo(f"{number:06}.jpg")
                member.size = len(contents[number % DISTINCT])
                tar.addfile(member, io.BytesIO(contents[number % DISTINCT]))
        command = [sys.executable, "-m", "nanoinfer", "predict", str(archive), "-m", arguments.model]
        command += ["--weights", "random", "-o", str(output), "--threads", str(arguments.threads or 2)]
        process = subprocess.Popen(command)
        partial, peak, shown = Path(f"{output}.partial"), 0, -1
        while process.poll() is None:
            time.sleep(0.1)
            peak = max(peak, resident(process.pid))
            done = lines(partial)
            step = 20 * done // arguments.images
            if done and step > shown:
                shown = step
                print(f"{done:>8,} images  {resident(process.pid):6.0f} MiB resident", flush=True)
        with open(output, "rb") as file:
            found = sum(1 for _ in file)
    print(f"{found:>8,} rows, peak {peak:.0f} MiB, limit {LIMIT_MIB} MiB, exit code {process.returncode}")
    return int(process.returncode != 0 or found != arguments.images or peak > LIMIT_MIB)


def resident(pid: int) -> float:
    """Resident memory of a process in MiB; 0 once it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def lines(path: Path) -> int:
    """Rows in a partial file."""
    try:
        with open(path, "rb") as file:
            return max(0, sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b"")) - 1)
    except OSError:
        return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenetv3_small_100")
    parser.add_argument("--threads", type=int, help="default: every core")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--size", type=int, nargs=2, default=(500, 375), metavar=("W", "H"), help="default: 500 375")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--least", type=float, default=0.9, help="share of what is allowed below which it fails")
    parser.add_argument("--memory", action="store_true", help="resident memory instead of throughput")
    arguments = parser.parse_args(argv)
    return memory(arguments) if arguments.memory else throughput(arguments)


if __name__ == "__main__":
    sys.exit(main())
