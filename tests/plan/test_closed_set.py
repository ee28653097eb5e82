"""The closed set of kernels: whatever is planned for a listed network asks for no other."""

import functools
from contextlib import suppress

import numpy as np
import pytest
from nanoinfer.kernels import KERNELS, family, kernel_name

from nanoinfer import plan as planning
from nanoinfer.architectures import MODELS
from nanoinfer.errors import InputError
from nanoinfer.graph.ops import infer_shapes
from nanoinfer.lowering.packed import PackedWeights, Staging
from nanoinfer.machine import Machine
from nanoinfer.machine.tuning import TUNINGS
from nanoinfer.plan.closed_set import closed_set
from nanoinfer.plan.program import specs
from nanoinfer.sections import Section, Sections

MACHINES = {
    "AVX-512": (16, 32, False), "AVX-512 in halves": (16, 32, True), "AVX2": (8, 16, False), "NEON": (4, 32, False)
}  # fmt: skip
SOME = ("digits", "tf_mobilenetv3_small_100", "mobilenetv2_140", "resnetblur18", "resnext50_32x4d", "vit_b_32")
ODD = [(1, 1, 1), (2, 7, 33), (1, 32, 32), (3, 61, 97), (1, 301, 47)]  # images, sides


@functools.cache
def known(vectors):
    """Names of the set of all listed networks."""
    networks = [(row.graph(), (1, 3, *row.preprocessing.crop)) for row in MODELS.values()]
    return closed_set(networks, machine(vectors))


def machine(vectors, l2=2 << 20):
    return Machine(*vectors, l2, 32 << 20, TUNINGS[vectors])


def planned(name, vectors, shapes, threads, exact=False, l2=2 << 20):
    """Names of all kernels that a network calls: for logits, for some and all modules, for features and from them."""
    graph = MODELS[name].graph()
    rng = np.random.default_rng(0)
    shared = {**graph.parameters, **graph.buffers}
    # Numbers decide no more than whether Strassen's scheme applies, and where they are all alike it does.
    tensors = {key: np.broadcast_to(np.float32(rng.uniform(0.5, 1)), shape) for key, shape in shared.items()}
    sections = Sections(
        name, graph, tensors, threads, machine=machine(vectors, l2), pass_count=None, exact=exact
    )  # fmt: skip
    everything = (*graph.outputs, *graph.modules.values())
    some = everything[:1] + everything[1 :: rng.integers(2, 7)]
    found = set()

    def add(shape, start, outputs):
        section = Section(start, tuple(dict.fromkeys(outputs)))
        try:
            plan = sections.plan(shape, section)
        except InputError:  # the network takes no such image
            return
        staging, (_, weights) = Staging(PackedWeights()), sections.optimised(section)
        steps, _ = planning._lower_shard(plan, weights, staging, np.zeros(1, np.float32), 0)
        found.update(map(kernel_name, specs(steps)))

    for images, height, width in shapes:
        shape = images, 3, height, width
        for outputs in (graph.outputs, everything, some, (graph.features,)):
            add(shape, graph.input, outputs)
        with suppress(ValueError):
            add(infer_shapes(graph, shape)[graph.features], graph.features, graph.outputs)
    return found


def check(name, vectors, shapes, **options):
    found = planned(name, vectors, shapes, **options)
    assert len(found) > 4
    assert sorted(found - known(vectors).keys()) == []


@pytest.mark.parametrize("vectors", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("name", SOME)
def test_odd_inputs_ask_for_no_other_kernel(name, vectors):
    shapes = [(images, *MODELS[name].preprocessing.crop) for images in (1, 4)]
    check(name, vectors, shapes if name.startswith("vit") else [*shapes[:1], *ODD], threads=2)


@pytest.mark.parametrize("threads", [1, 3, 16])
def test_threads_caches_and_exact_models_ask_for_no_other_kernel(threads):
    for name in ("mobilenetv3_small_100", "resnet18"):
        check(name, (16, 32, True), ODD, threads=threads, exact=True, l2=256 << 10)


@pytest.mark.slow
@pytest.mark.parametrize("vectors", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("name", MODELS)
def test_every_network_at_many_sizes(name, vectors):
    rng = np.random.default_rng(len(name))
    sizes = rng.integers(1, 300, (4, 2)).tolist()
    shapes = [(int(rng.integers(1, 9)), *size) for size in sizes] + [(1, *MODELS[name].preprocessing.crop)]
    for exact, threads in ((False, 2), (True, 7)):
        check(name, vectors, shapes, threads=threads, exact=exact)


@pytest.mark.parametrize("vectors", MACHINES.values(), ids=MACHINES)
def test_the_set_is_small_and_has_every_kind_of_kernel(vectors):
    assert {family(spec) for spec in known(vectors).values()} == KERNELS.keys()
    assert len(known(vectors)) < 600  # what is added here makes each wheel larger, and its build longer
