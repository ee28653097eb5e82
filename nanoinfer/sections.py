"""Sections of a network made ready to run: graphs after passes, plans and programs, kept by section and input shape."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from .console import progress_bar
from .errors import InputError
from .graph import Graph, passes
from .lowering import Unsupported
from .lowering.packed import PackedWeights
from .machine import Machine, available_bytes
from .plan import Plan, Program, make_plan, make_program, packed_file
from .weights import tensors_hash

GRAPHS_KEPT = 2  # each may hold folded weights of its own
PLANS_KEPT = 256  # each is some hundred kB
PROGRAMS_KEPT, PROGRAM_BYTES_KEPT = 64, 256 << 20


class Section(NamedTuple):
    """A part of a network: it computes `outputs` from the value `start`, which is the input or the features."""

    start: str
    outputs: tuple[str, ...]


class Sections:
    """What a network needs to run any of its sections, made when it is first asked for; not for two threads at once.

    All programs share the packed weights, and with `share_weights` so do all processes of the machine (packed_file).
    `pass_count` is how many graph passes run, None for all; `exact` leaves out those of `passes.INEXACT`.
    """

    def __init__(
        self, name: str, graph: Graph, tensors: dict[str, np.ndarray], threads: int, *, machine: Machine,
        pass_count: int | None, exact: bool, share_weights: bool = False,
    ):  # fmt: skip
        self.name, self.graph, self.tensors, self.threads = name, graph, tensors, threads
        self.machine, self.pass_count, self.exact = machine, pass_count, exact
        self._graphs: OrderedDict[Section, tuple[Graph, dict[str, np.ndarray]]] = OrderedDict()
        self._plans: OrderedDict[tuple, Plan] = OrderedDict()
        self._programs: OrderedDict[tuple, Program] = OrderedDict()
        self._packed, self._file = PackedWeights(), None
        if share_weights:
            self._file = packed_file.file_name(tensors_hash(tensors), graph, machine, pass_count, exact)

    def replica(self) -> Sections:
        """The same with programs of its own. All else is shared, so only one of them may be made ready at a time."""
        other = copy.copy(self)
        other._programs = OrderedDict()
        return other

    def optimised(self, section: Section) -> tuple[Graph, dict[str, np.ndarray]]:
        """The section's graph and tensors after all passes."""

        def make():
            graph = self.graph.with_outputs(section.outputs, section.start)
            wide = self.machine.tuning.numerics.strassen_channels
            return passes.optimise(graph, self.tensors, self.pass_count, exact=self.exact, wide=wide)

        return _kept(self._graphs, section, GRAPHS_KEPT, make)

    def micro_batch(self, shape: tuple[int, ...], section: Section) -> int:
        """How many images run at a time; if a batch does not divide among the threads, the part that does decides."""
        images, *size = shape
        whole = images - images % self.threads or images
        return self.plan((whole, *size), section).micro_batch

    def plan(self, shape: tuple[int, ...], section: Section) -> Plan:
        """The plan for one input shape. InputError where the network cannot take it."""

        def make():
            graph, tensors = self.optimised(section)
            with self._refusals(shape):
                return make_plan(graph, tensors, shape, threads=self.threads, machine=self.machine)

        return _kept(self._plans, (shape, section), PLANS_KEPT, make)

    def program(self, shape: tuple[int, ...], section: Section) -> Program:
        """The program for one input shape; kernels are compiled if need be. InputError as from `plan`."""

        def make():
            plan, (_, tensors) = self.plan(shape, section), self.optimised(section)
            self._check_memory(plan)
            with self._refusals(shape), progress_bar(f"compiling kernels for {self.name}") as progress:
                return self._make_program(plan, tensors, progress)

        program = _kept(self._programs, (shape, section), PROGRAMS_KEPT, make)
        while len(self._programs) > 1 and sum(other.bytes for other in self._programs.values()) > PROGRAM_BYTES_KEPT:
            self._programs.popitem(last=False)
        return program

    def _make_program(self, plan: Plan, tensors: dict[str, np.ndarray], progress) -> Program:
        """A program whose packed weights are those of the file, if it is to be shared.

        What the file lacks is packed and written; then the program is made again of the file, so that no process keeps
        a copy of its own.
        """
        if self._file is None:
            return make_program(plan, tensors, self._packed, progress=progress)
        with packed_file.locked(self._file):
            if not self._packed:
                self._packed = packed_file.load(self._file)
            known = len(self._packed)
            program = make_program(plan, tensors, self._packed, progress=progress)
            if len(self._packed) > known and packed_file.save(self._file, self._packed):
                self._packed = packed_file.load(self._file) or self._packed
                program = make_program(plan, tensors, self._packed)
        return program

    def _check_memory(self, plan: Plan) -> None:
        """InputError if a program's memory is not there: a system that promises too much would end the process."""
        needed, available = plan.shards * plan.memory.bytes, available_bytes()
        if needed > available:
            gigabytes = f"{needed / 1e9:,.1f} GB of memory, and {available / 1e9:,.1f} GB are available"
            advice = "give smaller images" if plan.input_shape[0] == 1 else "give fewer or smaller images at a time"
            raise InputError(f"{self.name} needs {gigabytes} for an input of shape {plan.input_shape}; {advice}")

    @contextmanager
    def _refusals(self, shape: tuple[int, ...]) -> Iterator[None]:
        """What planning refuses, as an InputError."""
        try:
            yield
        except Unsupported as error:
            raise InputError(f"{self.name} with these arguments cannot run on this machine: {error}") from None
        except InputError:  # says itself what is wrong, and that is not the shape
            raise
        except ValueError as error:
            raise InputError(f"{self.name} cannot take an input of shape {shape}: {error}") from None


def _kept(table: OrderedDict, key, limit: int, make: Callable):
    """table[key], made if need be; of all keys the `limit` that were used last are kept."""
    if key not in table:
        table[key] = make()
        while len(table) > limit:
            table.popitem(last=False)
    table.move_to_end(key)
    return table[key]
