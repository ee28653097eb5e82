"""Networks with the same random weights in torch and in nanoinfer, and the error that nanoinfer's may have."""

from __future__ import annotations

import copy
import os
from functools import cached_property

import numpy as np
import torch
from safetensors.numpy import save_file

import nanoinfer
from bench.references import reference, state_arrays

SEEDS = [int(seed) for seed in os.environ.get("NANOINFER_TEST_SEED", "2025").split(",")]


class Network:
    """A network with random weights as a torch module and, through a safetensors file, as a nanoinfer model.

    `size` is the height and width of its inputs; `arguments` go to both libraries' constructors.
    """

    def __init__(self, name, seed, folder, size=(224, 224), **arguments):
        self.name, self.seed, self.size = name, seed, size
        self.module = reference(name, seed=seed, **arguments)
        self.path = folder / f"{name}.safetensors"
        save_file(state_arrays(self.module), self.path)
        self.model = nanoinfer.create_model(name, self.path, **arguments)

    @cached_property
    def double(self):
        """The torch module in float64."""
        return copy.deepcopy(self.module).double()

    def input(self, count, size=None):
        """Random float32 (count, 3, height, width), the same for the same seed and shape."""
        shape = (count, 3, *(size or self.size))
        return np.random.default_rng((self.seed, *shape)).standard_normal(shape, np.float32)

    def with_threads(self, threads):
        """The same model on another number of threads."""
        return nanoinfer.Model(self.model.pretrained, threads)

    @torch.no_grad()
    def torch_outputs(self, x, call=lambda module, x: module(x)):
        """What `call` returns for the torch module: (in float32, in float64)."""
        x = torch.from_numpy(x)
        return call(self.module, x).numpy(), call(self.double, x.double()).numpy()

    def check_error(self, y, y32, y64, what):
        """max|y - y64| <= 2 max|y32 - y64| for y of nanoinfer, y32 and y64 of torch; prints both and their ratio."""
        what = f"{self.name}, seed {self.seed}, {what}"
        error, torch_error = np.abs(y - y64).max(), np.abs(y32 - y64).max()
        print(f"{what}: {error:.2e}, torch {torch_error:.2e}, ratio {error / torch_error:.2f}")
        assert y.dtype == np.float32 and y.shape == y64.shape
        assert error <= 2 * torch_error, f"{what}: error {error:.3e} is {error / torch_error:.2f} times torch's"


def hooked(module, x):
    """({name: value that a forward hook on that submodule sees}, the module's own output), as arrays.

    The last run counts if a submodule runs several times.
    """
    seen, handles = {}, []
    for name, part in module.named_modules():

        def keep(_, inputs, output, name=name):
            output = output[0] if isinstance(output, tuple) else output  # attention: (values, weights)
            seen[name] = output.numpy().copy()  # a later operator may overwrite it in place

        handles.append(part.register_forward_hook(keep))
    with torch.no_grad():
        module(torch.from_numpy(x))
    for handle in handles:
        handle.remove()
    output = seen.pop("")
    return seen, output
