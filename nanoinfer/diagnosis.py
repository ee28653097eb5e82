"""What a checkpoint is that does not fit a network: one of another of our networks, of other sizes, or of others."""

from __future__ import annotations

from collections.abc import Mapping

from .architectures import MODELS, Architecture, spoken, translated_shapes
from .architectures.others import other_title
from .graph import Graph
from .graph.variants import head, input_weights

MOST_TENSORS = 5_000  # of a file that is compared with all networks
Shapes = Mapping[str, tuple[int, ...]]


def diagnosis(architecture: Architecture, graph: Graph, found: Shapes, given: Shapes) -> str | None:
    """What tensors of the shapes `found` are, if they do not fit `graph`, and what to do; None if nothing tells.

    `given` are their shapes under the file's own names, `found` under the architecture's names as far as one of its
    dialects has them. The sentence has the file as its subject. It takes a tenth of a second, since all networks are
    built to compare.
    """
    if wrong := _own_sizes(graph, found):
        return wrong
    fits, names, dialects = [], [], set()
    for name, model in MODELS.items() if len(given) <= MOST_TENSORS else ():
        dialect = spoken(model.dialects, given)
        shapes = translated_shapes(dialect, given) if dialect else given
        known, heads = _body(model.graph())
        if shapes.keys() - heads != known.keys():
            continue
        dialects |= {dialect.title} if dialect else set()
        names.append(name)
        if all(_alike(shapes[other], shape) for other, shape in known.items()):
            fits.append(name)
    spoken_as = f"under the names of {min(dialects)}, " if dialects else ""
    if architecture.name in fits:
        return f"holds the weights of {architecture.name} with its default arguments; leave them out"
    if fits:
        first, *others = fits
        same = f" ({', '.join(others)}: the same tensors, another computation)" if others else ""
        return f"holds the weights of {first}, {spoken_as}not of {architecture.name}; use -m {first}{same}"
    if architecture.name in names:
        given = _arguments(architecture)
        return f"has the names of {architecture.name}, {spoken_as}but other sizes; give its {given}"
    if names:
        return f"has the names of {names[0]}, {spoken_as}in other sizes, not those of {architecture.name}"
    expected = {**graph.parameters, **graph.buffers}
    near = sum(found.get(name) == shape for name, shape in expected.items()) > len(expected) / 2
    if title := other_title(given, kin=not near):
        return f"holds weights of {title}, which is not among nanoinfer's networks; 'nanoinfer models' lists them"
    return None


def _body(graph: Graph) -> tuple[dict[str, tuple], set[str]]:
    """(the shapes of all tensors but the head's, with None for an axis of any size, names of the head's)."""
    node = head(graph)
    heads = set(node.tensors.values()) if node else set()
    shapes = {name: shape for name, shape in {**graph.parameters, **graph.buffers}.items() if name not in heads}
    for name in input_weights(graph):
        shapes[name] = (shapes[name][0], None, *shapes[name][2:])
    for name in _positions(graph):
        shapes[name] = (1, None, shapes[name][2])
    return shapes, heads


def _positions(graph: Graph) -> set[str]:
    """Names of position embeddings, whose size is that of the images."""
    return {node.tensors["position"] for node in graph.nodes if "position" in node.tensors}


def _alike(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(want in (size, None) for size, want in zip(shape, expected, strict=True))


def _arguments(architecture: Architecture) -> str:
    """The names of the arguments that change its shapes."""
    ignored = ("pad_type", "bn_eps", "global_pool", "layer_norm_eps", "blur", "minimal", "basic", "fixed_ends")
    names = [name for name in architecture.arguments if name not in ignored]
    return " and ".join([", ".join(names[1:]), names[0]]) if len(names) > 1 else names[0]


def _own_sizes(graph: Graph, found: Shapes) -> str | None:
    """What differs if it is the head, the number of channels or that of pixels alone."""
    expected, (body, heads) = {**graph.parameters, **graph.buffers}, _body(graph)
    wrong = {name for name in expected if found.get(name) != expected[name]}
    if not wrong or not all(name in found and _alike(found[name], shape) for name, shape in body.items()):
        return None
    if wrong == heads and found.keys() == body.keys():
        return "has no head, and so gives embeddings: leave num_classes out, or give 0"
    if found.keys() != expected.keys():
        return None
    parts, node = [], head(graph)
    if wrong & heads:
        weight = node.tensors["weight"]
        if len(found[weight]) != 2 or found[weight][1] != expected[weight][1]:
            return None
        classes, given = found[weight][0], expected[weight][0]
        parts.append(f"has a head of {classes} classes, not of {given}: leave num_classes out, or give {classes}")
    for name in sorted(wrong & set(input_weights(graph))):
        channels, given = found[name][1], expected[name][1]
        parts.append(f"takes {channels} channels, not {given}: leave in_chans out, or give {channels}")
    for name in sorted(wrong & _positions(graph)):
        parts.append(f"is for images of another size, with {name} {found[name]}: leave image_size out")
    return "; ".join(parts) or None
