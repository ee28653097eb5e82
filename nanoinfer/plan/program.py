"""The program: a table of int64 rows, the memory that they address, and where input and outputs lie.

`encode` makes the rows of steps; a Program can be run any number of times, by one caller at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..kernels import convolution
from ..kernels.jit import library
from ..kernels.program import WORDS
from ..lowering import Step
from ..lowering.layout import TensorView
from ..lowering.packed import PackedWeights
from ..lowering.step import TiledRegion

INPUT = 1 + convolution.Instruction._fields.index("x")  # the word of a product's row that holds its input's address
Progress = Callable[[int, int], None]


class InputRows(NamedTuple):
    """Rows that read the network's input where the caller holds it."""

    table: np.ndarray
    rows: np.ndarray  # their numbers
    offsets: np.ndarray  # bytes from the input's address to what each row reads first


@dataclass
class Program:
    """A compiled plan for one input shape.

    The threads share every image, in one table (steps, words); or the batch is cut into shards, each with a table and a
    part of the arena of its own: `shards` of both. Offsets and views are those of the first shard. The input is read
    where the caller holds it if `input_rows` is not empty, and copied into the arena otherwise.
    """

    table: np.ndarray  # int64 (steps, WORDS) or (shards, steps, WORDS)
    shards: int
    steps: list[Step]  # with the cost of all shards
    shapes: dict[str, tuple[int, ...]]
    arena: np.ndarray
    offsets: dict[str, int]
    input: TensorView
    outputs: dict[str, TensorView]
    input_rows: list[InputRows]
    tables: list[np.ndarray]  # what rows point to
    packed: PackedWeights  # weights and constants; shared with other programs of the model

    def __post_init__(self):
        self._output_pixels = {name: self.pixels(view)[..., : view.channels] for name, view in self.outputs.items()}

    def bind_input(self, x: np.ndarray) -> None:
        """Make x, C-contiguous float32 of the planned shape, the input of the next run; x must outlive that run."""
        for table, rows, offsets in self.input_rows:
            table[rows, INPUT] = x.ctypes.data + offsets
        if not self.input_rows:
            pixels = self.pixels(self.input)
            pixels[...] = 0
            last = np.moveaxis(x, 1, -1) if x.ndim == 4 else x
            pixels[..., : self.input.channels] = last.reshape(*pixels.shape[:-1], -1)

    def read_output(self, name: str) -> np.ndarray:
        """A copy of an output in torch's layout."""
        pixels = self._output_pixels[name]
        if len(self.outputs[name].shape) == 4:
            pixels = pixels.swapaxes(-1, -2)
        return pixels.copy(order="C").reshape(self.shapes[name])

    def pixels(self, view: TensorView) -> np.ndarray:
        """(shards, images, pixels, padded channels) of a value in the arena."""
        first = self.arena[(view.address - self.arena.ctypes.data) // 4 :]
        width = -(-view.channels * 4 // view.pixel_stride) * view.pixel_stride // 4
        shape, shard = (self.shards, view.images, view.pixels, width), self.arena.nbytes // self.shards
        return np.lib.stride_tricks.as_strided(first, shape, (shard, view.image_stride, view.pixel_stride, 4))

    def __str__(self) -> str:
        lines = [f"{'step':>4} {'kernel':34} {'output':52} {'shape':20} {'MFLOP':>9} {'KiB':>9} {'offset':>10}"]
        for number, step in enumerate(self.steps):
            name = step.node.output
            shape, mflop = "x".join(str(n) for n in self.shapes[name]), step.flops / 1e6
            offset, kib = self.offsets.get(name, 0), step.bytes / 1024
            lines.append(f"{number:4} {step.kernel:34} {name:52} {shape:20} {mflop:9.3f} {kib:9.1f} {offset:10}")
        total = sum(step.flops for step in self.steps) / 1e6
        lines.append(f"{len(self.steps)} steps, {total:.1f} MFLOP, arena {self.arena.nbytes / 2**20:.2f} MiB")
        return "\n".join(lines)


def encode_row(row: np.ndarray, kernel: int, call: tuple[int, ...], barrier: bool) -> None:
    """Write one row of a table. ValueError if the instruction has more words than a row has room for."""
    if len(call) > WORDS - 2:
        raise ValueError(f"{type(call).__name__} has {len(call)} words; a row has room for {WORDS - 2}")
    row[0], row[1 : 1 + len(call)], row[-1] = kernel, call, barrier


class Encoder:
    """Steps to rows. `tables` collects what rows point to, `input_rows` the rows that read value `input`."""

    def __init__(self, steps: Iterable[Step], input: str | None = None, progress: Progress | None = None):
        self.kernels = library.addresses(_specs(steps), progress)
        self.input, self.tables, self.input_rows = input, [], []

    def fill(self, table: np.ndarray, steps: list[Step]) -> None:
        """Write the rows of steps into a table (steps, WORDS)."""
        for row, step in zip(table, steps, strict=True):
            call = step.call
            if step.regions:
                call = call._replace(regions=self._keep([self._region(region) for region in step.regions]))
            if step.programs:
                call = call._replace(programs=self._keep([self._program(program) for program in step.programs]))
            encode_row(row, self.kernels[step.spec], call, step.barrier)
        reading = [number for number, step in enumerate(steps) if step.regions and self.input in step.node.inputs]
        if reading:
            rows = np.array(reading)
            self.input_rows.append(InputRows(table, rows, table[rows, INPUT]))

    def _keep(self, values) -> int:
        """The address of a table, which lives as long as the program."""
        self.tables.append(np.asarray(values, np.int64))
        return self.tables[-1].ctypes.data

    def _region(self, tiled: TiledRegion) -> tuple[int, ...]:
        """A Region and its Tile, with addresses."""
        full, edge = self.kernels[tiled.full], self.kernels[tiled.edge] if tiled.edge else 0
        region, tile = tiled.region._replace(full_tile=full, edge_tile=edge), tiled.tile
        if tiled.stem_offsets.size:
            tile = tile._replace(stem_offsets=self._keep(tiled.stem_offsets))
        return (*region, *tile)

    def _program(self, steps: list[Step]) -> tuple[int, int]:
        """(address of a thread's program, its rows)."""
        table = np.zeros((len(steps), WORDS), np.int64)
        self.fill(table, steps)
        return self._keep(table), len(steps)


def _specs(steps: Iterable[Step]) -> Iterator:
    """Every kernel that steps call."""
    for step in steps:
        yield step.spec
        for region in step.regions:
            yield region.full
            if region.edge:
                yield region.edge
        for program in step.programs:
            yield from _specs(program)
