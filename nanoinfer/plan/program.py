"""The program: a table of int64 rows, the memory that they address, and where input and outputs lie.

`Encoder` makes the rows of steps; a Program can be run any number of times, by one caller at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ..kernels import convolution, kernel_name
from ..kernels.program import BARRIER, INSTRUCTION, KERNEL, WORDS
from ..lowering import Step
from ..lowering.layout import TensorView
from ..lowering.packed import PackedWeights
from ..lowering.step import TiledRegion

STEP_BYTES = 2048  # of a step: its row, and the records that it was made of
X_WORD = INSTRUCTION + convolution.Instruction._fields.index("x")  # of a product's row: the address of its input


class InputRows(NamedTuple):
    """Rows that read the network's input where the caller holds it."""

    table: np.ndarray
    rows: np.ndarray  # their numbers
    offsets: np.ndarray  # bytes from the input's address to what each row reads first


@dataclass
class Program:
    """A compiled plan for one input shape.

    The threads share every image, in one table (steps, words); or the batch is cut into shards, and there are `shards`
    tables and parts of the arena. Offsets and views are those of the first shard. The input is read where the caller
    holds it if `input_rows` is not empty, and copied into the arena otherwise.
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

    @cached_property
    def bytes(self) -> int:
        """What the program keeps for itself: its part of memory, tables, and steps as Python objects, roughly."""
        rows = self.table.size // WORDS + sum(table.size // WORDS for table in self.tables)
        return self.arena.nbytes + rows * STEP_BYTES

    def bind_input(self, x: np.ndarray) -> None:
        """Make x, C-contiguous float32 of the planned shape, the input of the next run; x must outlive that run."""
        for table, rows, offsets in self.input_rows:
            table[rows, X_WORD] = x.ctypes.data + offsets
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
        shape = self.shards, view.images, view.pixels, view.pixel_stride // 4
        shard = self.arena.nbytes // self.shards
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


def encode_row(row: np.ndarray, kernel: int, instruction: tuple[int, ...], barrier: bool) -> None:
    """Write one row of a table. ValueError if the instruction has more words than a row has room for."""
    room = BARRIER - INSTRUCTION
    if len(instruction) > room:
        raise ValueError(f"{type(instruction).__name__} has {len(instruction)} words; a row has room for {room}")
    row[KERNEL], row[INSTRUCTION : INSTRUCTION + len(instruction)], row[BARRIER] = kernel, instruction, barrier


class Encoder:
    """Steps to rows, with the addresses of `kernels` by name.

    `tables` collects what rows point to, `input_rows` the rows that read value `input`.
    """

    def __init__(self, kernels: Mapping[str, int], input: str | None = None):
        self.kernels, self.input, self.tables, self.input_rows = kernels, input, [], []

    def fill(self, table: np.ndarray, steps: list[Step]) -> None:
        """Write the rows of steps into a table (steps, WORDS)."""
        for row, step in zip(table, steps, strict=True):
            instruction = step.instruction
            if step.regions:
                regions = self._keep([self._region(region) for region in step.regions])
                instruction = instruction._replace(regions=regions)
            if step.programs:
                programs = self._keep([self._program(program) for program in step.programs])
                instruction = instruction._replace(programs=programs)
            encode_row(row, self.kernels[kernel_name(step.spec)], instruction, step.barrier)
        reading = [number for number, step in enumerate(steps) if step.regions and self.input in step.node.inputs]
        if reading:
            rows = np.array(reading)
            self.input_rows.append(InputRows(table, rows, table[rows, X_WORD]))

    def _keep(self, values) -> int:
        """The address of a table, which lives as long as the program; an int64 array is not copied."""
        self.tables.append(np.asarray(values, np.int64))
        return self.tables[-1].ctypes.data

    def _region(self, tiled: TiledRegion) -> tuple[int, ...]:
        """A Region and its TileLoops, with addresses."""
        full = self.kernels[kernel_name(tiled.full_spec)]
        edge = self.kernels[kernel_name(tiled.edge_spec)] if tiled.edge_spec else 0
        region, loops = tiled.region._replace(full_kernel=full, edge_kernel=edge), tiled.loops
        if tiled.stem_offsets.size:
            loops = loops._replace(stem_offsets=self._keep(tiled.stem_offsets))
        return (*region, *loops)

    def _program(self, steps: list[Step]) -> tuple[int, int]:
        """(address of a thread's table, its rows)."""
        table = np.zeros((len(steps), WORDS), np.int64)
        self.fill(table, steps)
        return self._keep(table), len(steps)  # kept as it is: `input_rows` may refer to it


def specs(steps: Iterable[Step]) -> Iterator:
    """Every kernel that steps call."""
    for step in steps:
        yield step.spec
        for region in step.regions:
            yield region.full_spec
            if region.edge_spec:
                yield region.edge_spec
        for program in step.programs:
            yield from specs(program)
