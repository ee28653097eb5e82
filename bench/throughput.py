"""Images per second of independent calls side by side: nanoinfer, onnxruntime and OpenVINO on the same cores.

    python -m bench.throughput [--models M ...] [--streams N] [--batch-size N] [--rounds R] [--seconds S]

Each stream is a thread that calls an engine again and again: a replica of a nanoinfer model of one thread, a session of
onnxruntime of one thread, and for OpenVINO a request of its queue, under its own hint THROUGHPUT. Every engine runs in
a process of its own, by turns; ratios are taken within a round and their median is reported. Exit code 1: a wrong
result, or fewer images per second than a peer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

import nanoinfer
from nanoinfer.architectures import MODELS as ARCHITECTURES
from nanoinfer.cli.network import positive
from nanoinfer.runtime import default_threads

from .accuracy import cpu_name
from .engines import load_nanoinfer, load_onnxruntime
from .models import MODELS, prepare

TOLERANCE = 1e-3  # relative to the largest logit

# How many calls of a batch end within some seconds.
Count = Callable[[float], tuple[int, float]]


def loops(runs: list[Callable], x: np.ndarray) -> Count:
    """One thread for each of `runs`."""

    def count(seconds: float) -> tuple[int, float]:
        done, start = [0] * len(runs), time.perf_counter()

        def stream(number: int) -> None:
            while time.perf_counter() - start < seconds:
                runs[number](x)
                done[number] += 1

        threads = [threading.Thread(target=stream, args=(number,)) for number in range(len(runs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(done), time.perf_counter() - start

    return count


def start_nanoinfer(name: str, folder: Path, x: np.ndarray, streams: int) -> tuple[Count, np.ndarray]:
    model, _ = load_nanoinfer(name, folder, len(x), 1)
    replicas = [model, *(model.replica() for _ in range(streams - 1))]
    outputs = [replica(x) for replica in replicas]
    return loops(replicas, x), outputs[-1]


def start_onnxruntime(name: str, folder: Path, x: np.ndarray, streams: int) -> tuple[Count, np.ndarray]:
    runs = [load_onnxruntime(name, folder, len(x), 1)[0] for _ in range(streams)]
    return loops(runs, x), runs[-1](x)


def start_openvino(name: str, folder: Path, x: np.ndarray, streams: int) -> tuple[Count, np.ndarray]:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": streams, "PERFORMANCE_HINT": "THROUGHPUT"}
    compiled = openvino.Core().compile_model(str(folder / f"batch{len(x)}.onnx"), "CPU", settings)
    queue, done = openvino.AsyncInferQueue(compiled), [0]  # as many requests as it finds best

    def finished(request, _):
        done[0] += 1

    queue.set_callback(finished)

    def count(seconds: float) -> tuple[int, float]:
        done[0], start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            queue.start_async({0: x}, share_inputs=True)
        queue.wait_all()
        return done[0], time.perf_counter() - start

    return count, np.array(compiled({0: x})[0])


ENGINES = {"nanoinfer": start_nanoinfer, "onnxruntime": start_onnxruntime, "openvino": start_openvino}


def worker(engine: str, folder: Path, streams: int, batch: int) -> None:
    """Start an engine, and count calls for as many seconds as each line of standard input says."""
    x = np.load(folder / "input.npy")[:batch]
    count, logits = ENGINES[engine]((folder / "name").read_text(), folder, x, streams)
    np.save(folder / f"{engine}.npy", logits)
    count(0.5)
    print(json.dumps(version(engine)), flush=True)
    for line in sys.stdin:
        print(json.dumps(count(float(line))), flush=True)


def compare(name: str, options: argparse.Namespace) -> list[str]:
    """Print a line for each engine on one network; returns what is wrong."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        expected = prepare(name, folder, [options.batch_size], onnx=True)
        arguments = ["--worker", temporary, "--streams", str(options.streams), "--batch-size", str(options.batch_size)]
        processes = {
            engine: subprocess.Popen(
                [sys.executable, "-m", "bench.throughput", engine, *arguments], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, text=True,
            )
            for engine in ENGINES
        }  # fmt: skip
        versions = {engine: json.loads(process.stdout.readline()) for engine, process in processes.items()}
        rates: dict[str, list[float]] = {engine: [] for engine in ENGINES}
        for _ in range(options.rounds):
            for engine, process in processes.items():
                process.stdin.write(f"{options.seconds}\n")
                process.stdin.flush()
                calls, seconds = json.loads(process.stdout.readline())
                rates[engine].append(calls * options.batch_size / seconds)
        for process in processes.values():
            process.stdin.close()
            process.wait()
        wrong = []
        for engine in ENGINES:
            error = np.abs(np.load(folder / f"{engine}.npy") - expected).max() / np.abs(expected).max()
            ratio = statistics.median(a / b for a, b in zip(rates["nanoinfer"], rates[engine], strict=True))
            rate = statistics.median(rates[engine])
            print(
                f"{name:24} {engine:12} {versions[engine]:12} {rate:9.1f} images/s  ours/this {ratio:5.2f}  {error:.1e}"
            )
            if not error < TOLERANCE:
                wrong.append(f"{name}: {engine} has an error of {error:.1e}")
            if ratio < 1:
                wrong.append(f"{name}: {engine} has {1 / ratio:.2f} times as many images per second")
    sys.stdout.flush()
    return wrong


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", nargs="?", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--worker", metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=ARCHITECTURES, metavar="MODEL")
    parser.add_argument("--streams", type=positive, default=default_threads(), help="default: one for each core")
    parser.add_argument("--batch-size", type=positive, default=1)
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one turn")
    options = parser.parse_args(argv)
    if options.worker:
        worker(options.engine, Path(options.worker), options.streams, options.batch_size)
        return 0
    about = f"{cpu_name()}, nanoinfer {nanoinfer.__version__}, {options.streams} streams, batch {options.batch_size}"
    print(f"{about}, float32")
    wrong = [line for name in options.models for line in compare(name, options)]
    for line in wrong:
        print(f"bench.throughput: {line}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
