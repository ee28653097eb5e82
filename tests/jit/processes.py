"""Python processes that compile or load kernels, with a cache folder of their own, and print JSON."""

import json
import os
import subprocess
import sys

# One linear layer with GELU, which needs a few kernels. Prints a hash of the output, whether Numba was imported and all
# warnings.
LINEAR_GELU = """
import hashlib, json, sys, warnings
import numpy as np
from nanoinfer import runtime
from nanoinfer.graph import Builder
from nanoinfer.lowering.packed import PackedWeights
from nanoinfer.machine import host
from nanoinfer.plan import make_plan, make_program

{before}
builder = Builder(40)
value = builder.activation(builder.linear(builder.input, "c", 50), "gelu", "a")
generator = np.random.default_rng(0)
tensors = {{name: generator.standard_normal(shape, np.float32) for name, shape in builder.parameters.items()}}
x = generator.standard_normal((6, 40), np.float32)
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    plan = make_plan(builder.finish(value, value), tensors, x.shape, threads=1, machine=host())
    program = make_program(plan, tensors, PackedWeights())
    program.bind_input(x)
    runtime.team(1).run(program.table)
print(json.dumps(dict(
    bits=hashlib.sha256(program.read_output("a").tobytes()).hexdigest(), compiled="numba" in sys.modules,
    warnings=[[item.category.__name__, str(item.message)] for item in seen],
)))
"""
# The command line; prints on stderr whether Numba was imported.
PREDICT = """
import runpy, sys
sys.argv = ["nanoinfer", "predict", "--threads", "2", "--format", "csv"]
try:
    runpy.run_module("nanoinfer", run_name="__main__")
except SystemExit as end:
    assert not end.code
print("numba" in sys.modules, file=sys.stderr)
"""


def start(code, cache, **environment):
    """Start a Python process that runs `code` with `cache` as its folder of compiled kernels."""
    environment = {**os.environ, "NANOINFER_CACHE_DIR": str(cache), **environment}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True, env=environment)


def output_of(process, timeout=300):
    """The JSON that a process of `start` prints."""
    try:
        out, error = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert process.returncode == 0, error
    return json.loads(out)


def run_linear_gelu(cache, before=""):
    """The JSON that LINEAR_GELU prints; it executes `before` ahead of planning."""
    return output_of(start(LINEAR_GELU.format(before=before), cache))


def kernel_files(cache):
    """The compiled kernels in a cache folder."""
    return sorted(path for path in cache.rglob("*_f32"))
