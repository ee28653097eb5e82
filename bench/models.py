"""The same network, weights, input and threads through nanoinfer and its peers, side by side.

    python -m bench.models [--models M ...] [--batch-sizes N ...] [--threads T ...] [--peers P ...] [--before FOLDER]
                                    [--isa avx2]

Every engine runs in a process of its own, by turns: idle thread pools go on spinning, and two of them on the same
cores would slow each other down. A turn settles for a third of its time, then times calls back to back; a round is one
turn of each engine. Ratios are taken within a round and their median is reported, so that a machine that is slower
for a while is so for all. Outputs are compared with torch in float64; a mismatch ends the run with exit code 1.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from nanoinfer.architectures import MODELS as ARCHITECTURES
from nanoinfer.cli.network import positive
from nanoinfer.runtime import default_threads

from .engines import ENGINES, ISAS, NOT_HELD

MODELS = ("mobilenetv2_140", "mobilenetv3_small_100", "resnext50_32x4d", "vit_b_32")
BEST_OF = ("onnxruntime", "openvino", "opencv")  # the peers that count; torch is the reference
SEED = 7
ROOT = Path(__file__).parents[1]


def prepare(name: str, folder: Path, batches: list[int], onnx: bool) -> np.ndarray:
    """Weights, input and ONNX files for one network; returns the float64 logits that every engine must give."""
    import torch
    from safetensors.numpy import save_file

    from .references import reference, state_arrays

    module = reference(name, seed=SEED)
    arrays = {key: np.ascontiguousarray(array) for key, array in state_arrays(module).items()}
    save_file(arrays, folder / "weights.safetensors")
    (folder / "name").write_text(name)
    x = np.random.default_rng(SEED).standard_normal((max(batches), 3, 224, 224), np.float32)
    np.save(folder / "input.npy", x)
    for batch in batches if onnx else []:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns of itself; what comes out is compared below
            torch.onnx.export(
                module, (torch.from_numpy(x[:batch]),), folder / f"batch{batch}.onnx", input_names=["input"],
                dynamo=False, opset_version=17,
            )  # fmt: skip
    with torch.inference_mode():
        return module.double()(torch.from_numpy(x).double()).numpy()


@dataclass(frozen=True)
class Setting:
    """One network at one batch size and number of threads; `folder` holds what `prepare` wrote."""

    name: str
    folder: Path
    batch: int
    threads: int


class Worker:
    """One engine in a process of its own; `environment` is added to that of this one."""

    def __init__(self, engine: str, setting: Setting, before: str | None, environment: dict[str, str]):
        self.engine = engine
        arguments = (engine, str(setting.folder), str(setting.batch), str(setting.threads))
        # `python -m` looks for modules in its working folder first: there lies the earlier version, and not this bench.
        earlier = engine == "before"
        environment = {**os.environ, **environment, **({"PYTHONPATH": str(ROOT)} if earlier else {})}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.engines", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, cwd=before if earlier else None, env=environment,
        )  # fmt: skip
        self.about = self._answer()
        self.logits = np.load(setting.folder / f"{engine}-{setting.batch}-{setting.threads}.npy")
        self.rounds: list[list[float]] = []

    def _answer(self):
        for line in self.process.stdout:
            if line.startswith(("{", "[")):
                return json.loads(line)
        raise SystemExit(f"bench.models: {self.engine} ended with code {self.process.wait()}; see its message above")

    def turn(self, seconds: float) -> None:
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        self.rounds.append(self._answer())

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def compare(setting: Setting, expected: np.ndarray, engines: list[str], options: argparse.Namespace) -> dict:
    """One row of the result: all engines on one network, batch size and number of threads."""
    workers = [Worker(engine, setting, options.before, ISAS[options.isa]) for engine in engines]
    expected = expected[: setting.batch]
    errors = {
        worker.engine: float(np.abs(worker.logits - expected).max() / np.abs(expected).max()) for worker in workers
    }
    for _ in range(options.rounds):
        for worker in workers:
            worker.turn(options.seconds)
    results = {}
    for worker in workers:
        worker.stop()
        calls = np.array([call for turn in worker.rounds for call in turn]) * 1e3
        medians = [statistics.median(turn) for turn in worker.rounds]
        ours = [statistics.median(turn) for turn in workers[0].rounds]
        results[worker.engine] = {
            **worker.about,
            "median_ms": float(np.median(calls)),
            "p95_ms": float(np.percentile(calls, 95)),
            "min_ms": float(calls.min()),
            "error": errors[worker.engine],
            "times_as_long": statistics.median(theirs / mine for theirs, mine in zip(medians, ours, strict=True)),
        }
    return {"model": setting.name, "batch": setting.batch, "threads": setting.threads, "engines": results}


def show(row: dict) -> None:
    print(f"\n{row['model']}, batch {row['batch']}, {_threads(row)}")
    print(
        f"  {'engine':14} {'version':12} {'instructions':18} {'median':>9} {'p95':>9} {'min':>9} {'time/ours':>10} "
        f"{'error':>9}"
    )
    for engine, result in row["engines"].items():
        print(
            f"  {engine:14} {result['version']:12} {result['instruction_sets']:18} {result['median_ms']:9.3f} "
            f"{result['p95_ms']:9.3f} {result['min_ms']:9.3f} {result['times_as_long']:10.2f} {result['error']:9.1e}"
        )


def best_peer(row: dict) -> float:
    """How many times as long the fastest of the peers in BEST_OF takes; nan if none ran."""
    ratios = [row["engines"][peer]["times_as_long"] for peer in BEST_OF if peer in row["engines"]]
    return min(ratios, default=float("nan"))


def _threads(row: dict) -> str:
    return f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}"


def plot(rows: list[dict], machine: str, path: str) -> None:
    """A chart per network: milliseconds of each engine, a group of bars per batch size and thread count."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    models = list(dict.fromkeys(row["model"] for row in rows))
    figure, axes = pyplot.subplots(1, len(models), figsize=(4.5 * len(models), 4.5), squeeze=False)
    for axis, model in zip(axes[0], models, strict=True):
        mine = [row for row in rows if row["model"] == model]
        engines = list(mine[0]["engines"])
        width = 1 / (len(engines) + 1)
        for index, engine in enumerate(engines):
            heights = [row["engines"][engine]["median_ms"] / row["batch"] for row in mine]
            axis.bar([at + index * width for at in range(len(mine))], heights, width, label=engine)
        names = [f"batch {row['batch']}\n{_threads(row)}" for row in mine]
        axis.set_xticks([at + 0.4 for at in range(len(mine))], names)
        axis.set_title(model)
        axis.set_ylabel("milliseconds per image, median")
    axes[0][-1].legend()
    figure.suptitle(f"{datetime.date.today()}, {machine}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def _engines(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[str]:
    """The engines that can run here: nanoinfer, its earlier version if one is given, and the peers installed."""
    engines = ["nanoinfer"]
    if options.before is not None:
        if not (Path(options.before) / "nanoinfer" / "__init__.py").exists():
            parser.error(f"{options.before}: holds no nanoinfer; pip install --no-deps --target FOLDER CHECKOUT")
        engines.append("before")
    if NOT_HELD[options.isa]:
        print("linear layers of openvino and opencv have no switch: with AVX-512 here, vit_b_32 is no fair comparison")
    for peer in options.peers:
        if peer in NOT_HELD[options.isa]:
            print(f"{peer} has no switch for its instruction set and is left out")
            continue
        try:
            version(ENGINES[peer][0])
            engines.append(peer)
        except PackageNotFoundError:
            print(f"{peer} is not installed and left out: pip install nanoinfer[bench]")
    return engines


def _wrong(row: dict, tolerance: float) -> list[str]:
    """A line per engine whose error is larger than `tolerance`, or not a number."""
    return [
        f"{engine}: {row['model']}, batch {row['batch']}: error {result['error']:.1e}"
        for engine, result in row["engines"].items()
        if not result["error"] <= tolerance
    ]


def _summary(rows: list[dict]) -> None:
    ratios = [best_peer(row) for row in rows]
    if np.isfinite(ratios).all():
        mean = statistics.geometric_mean(ratios)
        peers = ", ".join(peer for peer in BEST_OF if peer in rows[0]["engines"])
        print(f"\nagainst the fastest of {peers}: worst {min(ratios):.2f}x, geometric mean {mean:.2f}x")
    if all("before" in row["engines"] for row in rows):
        gains = [row["engines"]["before"]["times_as_long"] for row in rows]
        mean = statistics.geometric_mean(gains)
        print(f"before / now: {min(gains):.3f} to {max(gains):.3f}, geometric mean {mean:.3f}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.models", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS, choices=ARCHITECTURES, metavar="MODEL")
    parser.add_argument("--batch-sizes", nargs="+", type=positive, default=[1])
    parser.add_argument("--threads", nargs="+", type=positive, default=[2])
    parser.add_argument("--peers", nargs="*", default=[*BEST_OF, "torch"], choices=list(ENGINES)[2:])
    text = "also time an earlier version in FOLDER: pip install --no-deps --target FOLDER CHECKOUT"
    parser.add_argument("--before", metavar="FOLDER", help=text)
    text = "hold engines to AVX2 on a CPU with AVX-512; leave out those that cannot be held"
    parser.add_argument("--isa", choices=ISAS, default="native", help=text)
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--seconds", type=float, default=1.5, help="length of one turn")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="largest error, relative to the largest logit")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE.png")
    options = parser.parse_args()

    engines = _engines(parser, options)
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if "model name" in line), "") \
        if Path("/proc/cpuinfo").exists() else platform.processor()  # fmt: skip
    machine = f"{cpu}, {default_threads()} cores"
    print(f"{platform.platform()}, Python {platform.python_version()}, {machine}; float32, times in milliseconds")
    rows, wrong = [], []
    for name in options.models:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            onnx = not set(engines).isdisjoint(BEST_OF)
            expected = prepare(name, folder, options.batch_sizes, onnx)
            for batch in options.batch_sizes:
                for threads in options.threads:
                    row = compare(Setting(name, folder, batch, threads), expected, engines, options)
                    rows.append(row)
                    show(row)
                    wrong += _wrong(row, options.tolerance)
    _summary(rows)
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))
    if options.plot:
        plot(rows, machine, options.plot)
    for message in wrong:
        print(f"bench.models: wrong result: {message}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
