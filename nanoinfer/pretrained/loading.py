"""load: a network's name and a source of weights -> its graph, its tensors, and what they mean.

A publisher says this in a config.json beside the weights; or it follows from the name of the file or repository, by the
table of published weights; or it is assumed, and said so. What the caller states comes before all of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from numbers import Integral, Real
from typing import TYPE_CHECKING

from .. import checkpoint
from ..architectures import MODELS, Architecture, arguments_of, find_model
from ..errors import InputError, did_you_mean, printable
from ..graph import Graph
from ..graph.variants import input_weights
from ..preprocessing import Preprocessing
from ..weights import WeightSource
from .labels import labels_of
from .names import in_own_names
from .records import Config, Meaning, Pretrained
from .shapes import adapted, told_by_shapes

if TYPE_CHECKING:
    from .published import Published

POOLS = {"fast": "avg", "fastavg": "avg", "fastmax": "max"}  # timm's other names, for the same values
LARGEST_ARGUMENT = 100_000  # of what an architecture takes as a number: blocks, channels, pixels


def load(name: str, weights, arguments: dict, *, preprocessing=None, labels=None) -> Pretrained:
    """The network called `name`, its weights, and what they mean; the arguments are those of `create_model`."""
    architecture, stated = find_network(name)
    size = None if "image_size" in architecture.arguments else arguments.pop("image_size", None)
    _check_numbers(architecture, {**arguments, **({} if size is None else {"image_size": size})})
    if weights is None:
        weights = _default_weights(architecture, stated)
    row = stated or _row_of(weights, architecture)
    source = checkpoint.read_source(architecture, weights)
    if source is None:
        graph, config, setting = _graph(architecture, arguments), Config(), stated and stated.preprocessing()
        tensors = checkpoint.random_tensors(graph, checkpoint.seed_of(weights, "weights"))
        where, notes, assumed = weights, (), False
    else:
        config = _config_of(source)
        _check_architecture(architecture, config, source)
        setting = stated.preprocessing() if stated else config.preprocessing or (row and row.preprocessing())
        assumed = setting is None and preprocessing is None and not _is_shipped(weights)
        given = source
        arguments, graph, source, dialect = _fitting(architecture, config, given, arguments)
        tensors = checkpoint.fitted(architecture, graph, source, copy=isinstance(weights, Mapping), given=given)
        setting = setting or (dialect and dialect.preprocessing)
        where, notes = _shown(weights, source.name), source.notes
    if "image_size" in architecture.arguments:
        size = {**architecture.arguments, **arguments}["image_size"]
    setting = _prepared(architecture, setting or _default(architecture), graph, size, preprocessing)
    names, said, more = labels_of(architecture, graph, tensors, labels, config.labels)
    meaning = Meaning(where, setting, names, said, (*notes, *more), assumed)
    return Pretrained(architecture, arguments, graph, tensors, meaning)


def _config_of(source: WeightSource) -> Config:
    """What the config.json of a source says; nothing without one."""
    if not source.config:
        return Config()
    from .config import read_config

    return read_config(source.config, source.name)


def _fitting(architecture: Architecture, config: Config, given: WeightSource, arguments: dict):
    """(arguments, graph, the source in the graph's names, the dialect that it was in) of a source of weights.

    The caller's arguments come first, then those of config.json, then what the shapes of tensors tell. Raises
    InputError for what the network does not have.
    """
    source, dialect = in_own_names(architecture, given)
    arguments = {**arguments}
    _take_arguments(architecture, config, arguments, source.name)
    if dialect:
        arguments = {**arguments_of(dialect, source.config, source.name), **arguments}
        _check_numbers(architecture, arguments)
    graph = _graph(architecture, arguments, f"{source.name}: by its config.json, " if config.arguments else "")
    read = told_by_shapes(architecture, graph, source, arguments)
    if read:
        arguments = {**arguments, **read}
        graph = _graph(architecture, arguments)
    return arguments, graph, adapted(architecture, graph, source, arguments), dialect


def _default(architecture: Architecture) -> Preprocessing:
    return replace(architecture.preprocessing, source=f"the default of {architecture.name}")


def build(name: str, arguments: Mapping) -> Graph:
    """The graph alone of the network called `name`, for reports; no weights are needed.

    Raises InputError as `load` does; `image_size` is of no effect where the network takes any.
    """
    architecture, _ = find_network(name)
    _check_numbers(architecture, arguments)
    sized = "image_size" in architecture.arguments
    return _graph(architecture, {key: value for key, value in arguments.items() if sized or key != "image_size"})


def find_network(name: str) -> tuple[Architecture, Published | None]:
    """The architecture "resnet50", or it and its published weights by timm's name for both, "resnet50.a1_in1k"."""
    base, _, tag = name.partition(".") if isinstance(name, str) else (name, "", "")
    if not isinstance(name, str) or name in MODELS:
        return find_model(name), None
    from .published import of_former, of_tag, tags

    if base not in MODELS or not tag:
        if row := of_former(name):
            raise InputError(f"no model is called {name!r}; timm now calls it {row.name}")
        return find_model(name), None
    row = of_tag(base, tag)
    if row is None:
        known = [row.tag for row in tags(base)]
        near = [name for name in known if name.startswith(tag)] or known  # "a1" for "a1_in1k"
        hint = did_you_mean(tag, near, otherwise=f"they are {', '.join(known)}" if known else "it has none")
        raise InputError(f"{base} has no published weights {printable(tag)!r}; {hint}")
    return MODELS[base], row


def _default_weights(architecture: Architecture, row: Published | None):
    if row is None and architecture.weights:
        return architecture.weights
    from .published import tags

    name = row.name if row else architecture.name
    row = row or next(iter(tags(architecture.name)), None)
    if row and row.hub:
        return row.where
    example = f" ({row.url})" if row else ""
    raise InputError(
        f"{name} has no default weights; pass a .safetensors or .pth file as weights{example}, or 'random'"
    )


def _check_numbers(architecture: Architecture, arguments: Mapping) -> None:
    """InputError for a number that no network takes."""
    for argument, value in arguments.items():
        least = 0 if argument == "num_classes" else 1
        default = {"in_chans": 3, "image_size": 224, **architecture.arguments}.get(argument)
        if isinstance(default, bool) or not isinstance(default, Real):
            continue
        whole = isinstance(default, int)
        if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
            fits = False
        else:
            fits = (value >= least if whole else value > 0) and value <= LARGEST_ARGUMENT
        if not fits:
            lower = "from 0" if least == 0 else "above 0 and"
            raise InputError(
                f"{argument}={value!r}: give a {'whole ' * whole}number {lower} up to {LARGEST_ARGUMENT:,}, "
                f"such as {default}"
            )


def _graph(architecture: Architecture, arguments: Mapping, where: str = "") -> Graph:
    """The graph of these arguments; `where` begins a message about them, if they come from elsewhere."""
    try:
        return architecture.graph(**arguments)
    except (TypeError, ValueError, ArithmeticError) as error:
        given = ", ".join(f"{argument}={printable(repr(value))}" for argument, value in arguments.items())
        raise InputError(f"{where}{architecture.name} cannot be built with {given}: {error}") from None


def _row_of(weights, architecture: Architecture) -> Published | None:
    """The row of the table that a source has by its name; InputError if the name is another architecture's."""
    if not isinstance(weights, (str, os.PathLike)) or _is_shipped(weights) or checkpoint.is_random(weights):
        return None
    from .published import architecture_of, of_file, of_hub

    name = os.fsdecode(weights).partition("#")[0]
    if not name.startswith("hub:"):
        row = of_file(name, architecture.name)
        said = row.architecture if row else architecture.name
    else:
        row = of_hub(name.removeprefix("hub:"))
        said = architecture_of(name.removeprefix("hub:")) if name.startswith("hub:timm/") else architecture.name
    if said != architecture.name:
        raise InputError(f"{printable(weights)}: by its name it holds weights of {_not_here(said, architecture)}")
    return row


def _not_here(said: str, architecture: Architecture) -> str:
    """The end of a message about weights of another architecture."""
    hint = f"use -m {said}" if said in MODELS else "nanoinfer has no network of that name"
    return f"{printable(said)}, not of {architecture.name}; {hint}"


def _check_architecture(architecture: Architecture, config: Config, source: WeightSource) -> None:
    """InputError if weights are said to be another architecture's, which may have tensors of the same names and shapes.

    A config.json says so; the name in a trainer's checkpoint may be anybody's, so it counts if it is one of ours.
    """
    if config.architecture is None and source.network is None:
        return
    from .published import architecture_of

    said = architecture_of(config.architecture or source.network)
    if said != architecture.name and (config.architecture or said in MODELS):
        by = "by its config.json" if config.architecture else "by its entry 'arch'"
        raise InputError(f"{source.name}: {by} it holds weights of {_not_here(said, architecture)}")


def _take_arguments(architecture: Architecture, config: Config, arguments: dict, name: str) -> None:
    """Put into `arguments` what the config states and the caller leaves out; InputError for what the network lacks."""
    for key, value in config.arguments.items():
        value = POOLS.get(value, value) if key == "global_pool" and isinstance(value, str) else value
        if key == "in_chans" or key in architecture.arguments:
            arguments.setdefault(key, value)
        elif key != "global_pool" or value != ("token" if "image_size" in architecture.arguments else "avg"):
            raise InputError(
                f"{name}: its config.json says {printable(key)}={printable(repr(value), 40)}, which nanoinfer's "
                f"{architecture.name} has not; its answers would differ"
            )
    _check_numbers(architecture, {key: arguments[key] for key in config.arguments if key in arguments})


def _prepared(
    architecture: Architecture, setting: Preprocessing, graph: Graph, size: int | None, given
) -> Preprocessing:
    """The preprocessing at the network's size and channels, then with what the caller gives.

    given: a Preprocessing, a mapping of some of its fields, or None. Raises InputError if it does not fit the network.
    """
    channels = graph.parameters[input_weights(graph)[0]][1]
    setting = setting.for_channels(channels)
    if size is not None:
        setting = setting.at(size)
    if isinstance(given, Preprocessing):
        setting = given if given.source else replace(given, source="as given")
    elif isinstance(given, Mapping):
        setting = setting.with_options(given, "as given")
    elif given is not None:
        raise InputError(f"preprocessing is a Preprocessing or a mapping of its fields, not {type(given).__name__}")
    if setting.channels != (3 if channels == 3 else 1):
        raise InputError(f"{architecture.name} takes {channels} channels; give a mean and std of as many numbers")
    fixed = "image_size" in architecture.arguments
    if fixed and setting.crop != (size, size):
        crop = " x ".join(map(str, setting.crop))
        raise InputError(
            f"{architecture.name} is built for {size} x {size} pixels, and a crop of {crop} does not fit; weights for "
            "that size need image_size"
        )
    return setting


def _is_shipped(weights) -> bool:
    """Whether weights are those of this package, or of another one that extra "imagenet" installs."""
    return isinstance(weights, str) and weights.startswith(("package:", "installed:"))


def _shown(weights, name: str) -> str:
    """Where weights come from, as a report says it; `name` is what messages call them."""
    if not _is_shipped(weights):
        return name
    if weights.startswith("package:"):
        return f"{weights.removeprefix('package:')} of this package"
    return "{1} of package {0}".format(*weights.removeprefix("installed:").split("/"))
