"""Depth-first fusion: a block of convolutions, row band by row band, so that its intermediates stay in a core's L2.

A depthwise (or narrowly grouped) convolution is fused with the dense one that feeds it and with the pointwise one that
it feeds: expand, depthwise and project of an inverted residual, or a network's stem and its first block. Each thread
owns a range of output rows. For one band of rows at a time it expands the input rows that the band needs into a
circular line buffer, runs the depthwise convolution over the buffer and projects the result, without barriers. At the
border of two threads' ranges both expand the halo rows that both need. Each output is the same chain of operations as
without fusion, so it has the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..graph import Graph, Node
from ..graph.ops import is_pointwise
from ..graph.windows import padding_before
from ..kernels.packing import GateWeights
from ..kernels.program import ThreadProgram, ThreadProgramInstruction
from ..machine import Machine
from . import conv, depthwise, strassen
from .layout import TensorView, ceil_div, nhwc
from .step import Context, Shapes, Step


def fuse(graph: Graph, shapes: Shapes, tensors: Mapping, machine: Machine, threads: int) -> Graph:
    """The graph with one "fused" node for every block whose intermediate activations are worth it."""
    readers = {node.output: reader for node, reader in graph.only_readers()}
    blocks, taken = {}, set()
    for expand, middle in graph.only_readers():
        if not (_expands(expand, shapes) and _is_depthwise(middle, tensors)):
            continue
        project = readers.get(middle.output)
        block = (expand, middle)
        if project is not None and _projects(project, middle.output, tensors):
            block = (expand, middle, project)
        # A pointwise convolution may stand between two depthwise ones.
        free = taken.isdisjoint(node.output for node in block)
        if free and _worthwhile(block, shapes, tensors, machine, threads) and _allowed(block, shapes, machine):
            blocks[block[-1].output] = block
            taken.update(node.output for node in block)
    return graph.rewrite(
        {output: _fused(block, tensors) for output, block in blocks.items()}, drop=taken - blocks.keys()
    )  # fmt: skip


def _expands(node: Node, shapes: Shapes) -> bool:
    """Whether it is a dense convolution without a residual; a gate has to scale its weights, not its input.

    Each thread can scale the weights for itself.
    """
    if node.op != "conv2d" or node.attributes["groups"] != 1:
        return False
    gated = node.attributes.get("gated", False)
    return len(node.inputs) == 1 + gated and (not gated or conv.gates_weights(node, shapes))


def _is_depthwise(node: Node, tensors: Mapping) -> bool:
    """Whether it is a convolution of one input that the depthwise kernel takes."""
    if node.op != "conv2d" or len(node.inputs) != 1:
        return False
    return depthwise.applies(node, tensors[node.tensors["weight"]].shape)


def _projects(node: Node, x: str, tensors: Mapping) -> bool:
    """Whether it is a pointwise convolution of x, and no gate scales x."""
    return node.inputs[0] == x and not node.attributes.get("gated") and is_pointwise(node, tensors)


def _worthwhile(block: tuple[Node, ...], shapes: Shapes, tensors: Mapping, machine: Machine, threads: int) -> bool:
    """Whether a thread's share of the intermediate activations outweighs that every image reads the weights again."""
    images, *intermediate = shapes[block[0].output]
    share = nhwc((1, *intermediate), machine).bytes / threads
    weights = sum(4 * tensors[node.tensors["weight"]].size for node in block)
    tuning = machine.tuning
    return share > tuning.min_intermediate_bytes / images + tuning.weight_reread_cost * weights


def _allowed(block: tuple[Node, ...], shapes: Shapes, machine: Machine) -> bool:
    """Whether row bands keep the order of all sums.

    A row of one pixel would be taken for an output of one pixel, whose sums are made in another order. A product by
    Strassen's scheme with split pairs needs whole images.
    """
    expand, middle, *_ = block
    narrowest = min(shapes[expand.output][3], shapes[middle.output][3])
    split = any(strassen.applies(n, shapes, machine) and strassen.has_split_pairs(n, shapes, machine) for n in block)
    return narrowest > 1 and not split


def _fused(block: tuple[Node, ...], tensors: Mapping) -> Node:
    expand, middle, *project = block
    names = {f"{number} {role}": name for number, node in enumerate(block) for role, name in node.tensors.items()}
    inputs = (*expand.inputs, *(name for node in project for name in node.inputs[1:]))
    window = tensors[middle.tensors["weight"]].shape[-1]
    return Node("fused", inputs, block[-1].output, names, {"parts": block, "window": window})


def _buffers(node: Node, shapes: Shapes, machine: Machine) -> tuple[TensorView, TensorView]:
    """(line buffer of expanded rows, band of rows that the depthwise convolution writes) of a thread, from address 0.

    The band has as many rows as keep both within their share of L2.
    """
    expand, middle, *project = node.attributes["parts"]
    stride, (_, expanded, _, in_width) = middle.attributes["stride"], shapes[expand.output]
    _, channels, height, width = shapes[middle.output]
    window = node.attributes["window"]

    def buffers(rows: int) -> tuple[TensorView, TensorView]:
        line_buffer = nhwc((1, expanded, (rows - 1) * stride + window, in_width), machine)
        return line_buffer, nhwc((1, channels, rows if project else 0, width), machine, line_buffer.bytes)

    room, rows = machine.tuning.line_buffer_share * machine.l2_bytes, 1
    while rows < height and sum(view.bytes for view in buffers(rows + 1)) <= room:
        rows += 1
    return buffers(rows)


def thread_workspace(node: Node, shapes: Shapes, machine: Machine) -> int:
    """Bytes that each thread needs for itself."""
    parts = node.attributes["parts"]
    scheme = max(strassen.thread_workspace(part, shapes, machine) for part in parts)
    buffers = sum(view.bytes for view in _buffers(node, shapes, machine))
    return buffers + conv.gate_workspace(parts[0], shapes, machine, images=1) + scheme


def flops(node: Node, context: Context) -> int:
    return sum(conv.flops(part, context) for part in node.attributes["parts"])


def lower(node: Node, context: Context) -> list[Step]:
    """One step, in which every thread runs a program of its own on its range of output rows."""
    images, _, height, _ = context.output(node).shape
    programs = []
    for thread in range(context.threads):
        first, end = (images * height * at // context.threads for at in (thread, thread + 1))
        program = []
        for image in range(images):
            rows = range(max(0, first - image * height), min(height, end - image * height))
            program += _ImageRows(node, context, thread, image).steps(rows)
        programs.append(program)
    return [Step(ThreadProgram(), ThreadProgramInstruction(0), node, programs=tuple(programs))]


class _ImageRows:
    """The steps of one thread for rows of one image of a fused block."""

    def __init__(self, node: Node, context: Context, thread: int, image: int):
        machine, shapes = context.machine, context.shapes
        self.node, self.shapes = node, shapes
        self.expand, self.middle, *self.project = node.attributes["parts"]
        self.window, self.stride = node.attributes["window"], self.middle.attributes["stride"]
        self.top, _ = padding_before(self.middle.attributes, shapes[self.expand.output][2:], self.window)
        of_thread = context.of_thread(thread)
        # The thread's workspace: line buffer, row band, gated weights, and what Strassen's scheme needs.
        base = of_thread.thread_workspace
        line_buffer, band = _buffers(node, shapes, machine)
        self.line_buffer = line_buffer._replace(address=base + line_buffer.address)
        self.band = band._replace(address=base + band.address)
        gated_weights = base + line_buffer.bytes + band.bytes
        rest = gated_weights + conv.gate_workspace(self.expand, shapes, machine, images=1)
        self.views = {name: context.views[name].rows(image) for name in (*node.inputs, node.output)}
        self.context = of_thread._replace(
            views=self.views, workspaces={self.expand.output: gated_weights}, thread_workspace=rest
        )  # fmt: skip
        limit = machine.tuning.prefetch_rows_above * context.threads * machine.l2_bytes
        self.beyond_l2 = {name for name in self.views if context.views[name].bytes > limit}

    def steps(self, rows: range) -> Iterator[Step]:
        """The steps that compute `rows` of the output: for each band first the expanded rows that it still needs."""
        height, buffer_rows = self.shapes[self.expand.output][2], self.line_buffer.height_width[0]
        ready = max(0, rows.start * self.stride - self.top)  # rows from here on are not expanded yet
        rows_of_band, gated = (buffer_rows - self.window) // self.stride + 1, False
        bands = ceil_div(len(rows), rows_of_band)
        for number in range(bands):
            first, end = (rows.start + len(rows) * at // bands for at in (number, number + 1))
            needed = min(height, (end - 1) * self.stride - self.top + self.window)
            while ready < needed:  # rows that go beyond the end of the line buffer are expanded in two parts
                slot = ready % buffer_rows
                count = min(needed - ready, buffer_rows - slot)
                yield from self._expand(ready, slot, count, with_gates=not gated)
                ready, gated = ready + count, True
            yield from self._output(first, end)

    def _with_views(self, views: Mapping[str, TensorView]) -> Context:
        return self.context._replace(views={**self.views, **views})

    def _expand(self, first: int, slot: int, count: int, with_gates: bool) -> list[Step]:
        """Expand rows first..first + count into the line buffer from row `slot` on.

        The step that scales weights by gates is needed once for all rows of the image.
        """
        context = self._with_views({self.expand.output: self.line_buffer.rows(0, slot, count)})
        steps = conv.thread_steps(self.expand, context, first)
        gates = [step for step in steps if isinstance(step.spec, GateWeights)]
        products = steps[len(gates) :]
        name = self.node.inputs[0]
        if name in self.beyond_l2:
            products[0].prefetch_ranges = self._input_range(self.views[name], first, first + count)
        return gates + products if with_gates else products

    def _output(self, first: int, end: int) -> list[Step]:
        """Rows first..end of the output: depthwise convolution over the line buffer, then the projection."""
        expanded = self.line_buffer._replace(
            shape=(*self.line_buffer.shape[:2], *self.shapes[self.expand.output][2:])
        )  # fmt: skip
        names = (*(name for part in self.project for name in part.inputs[1:]), self.node.output)
        outer = {name: self.views[name].rows(0, first, end - first) for name in names}
        out = self.band.rows(0, 0, end - first) if self.project else outer[self.node.output]
        context = self._with_views({self.expand.output: expanded, self.middle.output: out})
        buffer_rows = self.line_buffer.height_width[0]
        steps = [depthwise.step(self.middle, context, first_row=first, buffer_rows=buffer_rows)]
        last = steps  # the steps of the block's last convolution
        for part in self.project:
            last = conv.thread_steps(part, self._with_views({self.middle.output: out, **outer}))
            steps += last
        last[0].prefetch_ranges = tuple(
            (view.address, view.image_stride) for name, view in outer.items() if name in self.beyond_l2
        )
        return steps

    def _input_range(self, x: TensorView, first: int, end: int) -> tuple[tuple[int, int], ...]:
        """Where the rows of x lie that rows first..end of the expansion are computed from, if they are one range."""
        stride, window = self.expand.attributes["stride"], self.context.tensor(self.expand, "weight").shape[2]
        above, _ = padding_before(self.expand.attributes, x.height_width, window)
        top = max(0, first * stride - above)
        bottom = min(x.height_width[0], (end - 1) * stride - above + window)
        return ((x.address + top * x.row_stride, (bottom - top) * x.row_stride),) if x.channel_stride == 4 else ()
