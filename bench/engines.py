"""The engines that bench.models compares: one function each, from prepared files to a callable.

Run as `python -m bench.engines ENGINE FOLDER BATCH THREADS` it is a worker: it loads its engine, prints a line, and
then takes a turn for every number of seconds that it reads. See bench/models.py.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from .hide_avx512 import can_hide, hide

Run = Callable[[np.ndarray], np.ndarray]
Engine = tuple[Run, str]  # and the instruction sets that it says it uses

# What holds engines to AVX2 on a CPU with AVX-512. Where CPUID can be made to fault, a worker that finds HIDE in its
# environment hides AVX-512 from all; elsewhere their own switches serve. onnxruntime has no such switch, nor have the
# linear layers of OpenVINO ("mlas" among its kernels) and of OpenCV: these exceed what AVX2 can do at most.
HIDE = "HIDE_AVX512"
OWN = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}
SWITCHES = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENCV_CPU_DISABLE": "AVX512-SKX",
}
ISAS = {"native": {}, "avx2": {**OWN, **({HIDE: "1"} if can_hide() else SWITCHES)}}
NOT_HELD = {"native": set(), "avx2": set() if can_hide() else {"onnxruntime"}}


def load_nanoinfer(name: str, folder: Path, batch: int, threads: int) -> Engine:
    import nanoinfer
    from nanoinfer.machine import host

    lanes = host().lanes
    return nanoinfer.create_model(name, folder / "weights.safetensors", threads=threads), f"{lanes} lanes"


def load_onnxruntime(name: str, folder: Path, batch: int, threads: int) -> Engine:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    path = str(folder / f"batch{batch}.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    held = "avx2" if HIDE in os.environ else "not told"
    return lambda x: session.run(None, {"input": x})[0], held


def load_openvino(name: str, folder: Path, batch: int, threads: int) -> Engine:
    import openvino

    core = openvino.Core()
    # float32 by force: on CPUs with bf16 instructions OpenVINO would choose bf16 silently.
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    compiled = core.compile_model(str(folder / f"batch{batch}.onnx"), "CPU", settings)
    request, output = compiled.create_infer_request(), compiled.output(0)
    return lambda x: request.infer({0: x}, share_inputs=True, share_outputs=True)[output], _sets_of_layers(compiled)


def _sets_of_layers(compiled) -> str:
    """The instruction sets in the names of a compiled OpenVINO model's kernels, the most frequent first."""
    counts = Counter()
    for layer in compiled.get_runtime_model().get_ops():
        info = layer.get_rt_info()
        if "primitiveType" in info:
            counts.update(re.findall(r"avx512|avx2|avx|sse\d*|mlas|asimd|sve\d*", info["primitiveType"].astype(str)))
    return "+".join(name for name, _ in counts.most_common())


def load_opencv(name: str, folder: Path, batch: int, threads: int) -> Engine:
    import cv2

    cv2.setNumThreads(threads)
    net = cv2.dnn.readNetFromONNX(str(folder / f"batch{batch}.onnx"), cv2.dnn.ENGINE_NEW)

    def run(x):
        net.setInput(x)
        return net.forward()

    # A feature with a question mark behind it is disabled.
    used = [word.strip("*").lower() for word in cv2.getCPUFeaturesLine().split() if not word.endswith("?")]
    return run, used[-1]


def _torch_module(name: str, folder: Path, threads: int):
    import torch
    from safetensors.torch import load_file

    from .references import reference

    torch.set_num_threads(threads)
    module = reference(name)
    module.load_state_dict(load_file(folder / "weights.safetensors"), strict=False)
    return torch, module


def load_torch(name: str, folder: Path, batch: int, threads: int) -> Engine:
    torch, module = _torch_module(name, folder, threads)

    def run(x):
        with torch.inference_mode():
            return module(torch.from_numpy(x)).numpy()

    return run, torch.backends.cpu.get_cpu_capability().lower()


def load_torch_compile(name: str, folder: Path, batch: int, threads: int) -> Engine:
    torch, module = _torch_module(name, folder, threads)
    compiled = torch.compile(module)

    def run(x):
        with torch.inference_mode():
            return compiled(torch.from_numpy(x)).numpy()

    return run, torch.backends.cpu.get_cpu_capability().lower()


ENGINES: dict[str, tuple[str, Callable[[str, Path, int, int], Engine]]] = {
    "nanoinfer": ("nanoinfer", load_nanoinfer),
    "before": ("nanoinfer", load_nanoinfer),  # an earlier version, in a folder of its own
    "onnxruntime": ("onnxruntime", load_onnxruntime),
    "openvino": ("openvino", load_openvino),
    "opencv": ("opencv-python-headless", load_opencv),
    "torch": ("torch", load_torch),
    "torch.compile": ("torch", load_torch_compile),
}


def turn(run: Run, x: np.ndarray, seconds: float) -> list[float]:
    """Seconds of each call, called back to back, after a third of the time to settle."""
    start, times = time.perf_counter(), []
    while time.perf_counter() - start < seconds / 3:
        run(x)
    while time.perf_counter() - start < seconds or len(times) < 3:
        before = time.perf_counter()
        run(x)
        times.append(time.perf_counter() - before)
    return times


def main() -> None:
    if HIDE in os.environ:
        hide()
    engine, folder, batch, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(threads)
    package, load = ENGINES[engine]
    name = (folder / "name").read_text()
    x = np.load(folder / "input.npy")[:batch]
    run, sets = load(name, folder, batch, threads)
    np.save(folder / f"{engine}-{batch}-{threads}.npy", run(x))
    print(json.dumps({"version": version(package), "instruction_sets": sets}), flush=True)
    for line in sys.stdin:
        print(json.dumps(turn(run, x, float(line))), flush=True)


if __name__ == "__main__":
    main()
