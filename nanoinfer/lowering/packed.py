"""Packed weights and constants: made once, shared by all programs of a model.

A program that is being made stages what it needs (`Staging`): addresses are given at once, and weights are packed when
all steps are there, so that a failure leaves nothing behind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import NamedTuple

import numpy as np

from ..kernels import packing
from .layout import ALIGNMENT, aligned_empty, round_up

# Address space that constants are taken from: this much at first, and then each time as much as there is already. Only
# what is written to becomes memory.
RESERVE_BYTES = 64 << 20


class PackedWeights(dict):
    """{key: float32 array} of weights and other constants, side by side in memory, so that they share huge pages."""

    def __init__(self):
        super().__init__()
        self._free, self._reserve = np.empty(0, np.float32), RESERVE_BYTES // 4

    def empty(self, size: int) -> np.ndarray:
        """float32 array of `size` elements, aligned to ALIGNMENT."""
        room = round_up(4 * size, ALIGNMENT) // 4
        if room > self._free.size:
            self._free = aligned_empty(max(room, self._reserve))
            self._reserve += self._free.size
        part, self._free = self._free[:size], self._free[room:]
        return part


class PackKey(NamedTuple):
    """What tells packed weights apart."""

    tensor: str  # its name in the checkpoint, or of what passes have made
    order: Hashable  # how it is permuted before it is packed, or which Strassen product it belongs to
    channels: int  # output channels
    width: int  # output channels of a micro-panel
    first: int = 0  # the first of the output channels


class PackRequest(NamedTuple):
    """A weight to be packed: see kernels/packing.py.

    `source` is called just before it is packed, so that few unpacked weights exist at once. With `coefficients`, a sum
    of the quarters of a weight (2 O, 2 K, 1, 1) is packed.
    """

    key: PackKey
    shape: tuple[int, ...]  # (O, k, taps...) of the weight as a micro-kernel reads it
    source: Callable[[], np.ndarray]
    coefficients: tuple[int, ...] = ()

    @property
    def bytes(self) -> int:
        """What packing writes, and reads of a weight that is packed whole."""
        return 8 * math.prod(self.shape)

    def instruction(self, weight: np.ndarray, packed: int) -> packing.Instruction:
        """What the packing kernel is told of a C-contiguous `weight`, and the address where it is packed."""
        channels, k, *window = self.shape
        return packing.Instruction(
            weight=weight.ctypes.data, channel_stride=weight.strides[0], channels=channels, k=k,
            taps=math.prod(window), width=self.key.width, y=packed, **packing.coefficient_fields(self.coefficients),
        )  # fmt: skip


class Staging:
    """What one program adds to the packed weights of a model."""

    def __init__(self, packed: PackedWeights):
        self.packed = packed
        self.fresh: dict[Hashable, np.ndarray] = {}
        self.addresses: dict[Hashable, int] = {}  # of what this program uses
        self.requests: list[PackRequest] = []

    def constant(self, key: Hashable, make: Callable[[], np.ndarray]) -> int:
        """Address of a constant array, which `make` makes if no program has it yet."""
        if key not in self.packed and key not in self.fresh:
            values = make()
            self.fresh[key] = self.packed.empty(values.size)
            self.fresh[key][...] = values.ravel()
        return self.address(key)

    def weight(self, request: PackRequest) -> int:
        """Address of a packed weight, which is packed later if no program has it yet."""
        if request.key not in self.packed and request.key not in self.fresh:
            self.fresh[request.key] = self.packed.empty(packing.packed_size(request.shape, request.key.width))
            self.requests.append(request)
        return self.address(request.key)

    def address(self, key: Hashable) -> int:
        if key not in self.addresses:  # NumPy takes a microsecond to give an address
            self.addresses[key] = (self.packed if key in self.packed else self.fresh)[key].ctypes.data
        return self.addresses[key]

    def commit(self) -> None:
        """Share what was staged with all later programs, once every request is packed."""
        self.packed.update(self.fresh)
