"""Graph.rewrite, which every pass ends with: replaces, drops, keeps the order, and checks."""

import pytest

from nanoinfer.graph import Graph, Node


def chain(*names):
    """input -> activation `names[0]` -> activation `names[1]` ..."""
    before = ("input", *names)
    nodes = [
        Node("activation", (x,), y, attributes={"activation": "relu"}) for x, y in zip(before, names, strict=False)
    ]
    return Graph(tuple(nodes), names[-1:], {}, {}, {}, names[-1]).check()


def edges(graph):
    return [(*node.inputs, node.output) for node in graph.nodes]


def test_rewrite_replaces_and_drops_in_order():
    graph = chain("a", "b", "c")
    merged = Node("activation", ("input",), "b")
    assert edges(graph.rewrite({"b": merged}, drop=["a"])) == [("input", "b"), ("b", "c")]
    assert edges(graph) == [("input", "a"), ("a", "b"), ("b", "c")]


def test_rewrite_puts_several_nodes_in_the_place_of_one():
    new = [Node("activation", ("a",), "a2"), Node("activation", ("a2",), "b")]
    assert edges(chain("a", "b", "c").rewrite({"b": new})) == [("input", "a"), ("a", "a2"), ("a2", "b"), ("b", "c")]


def test_rewrite_drops_a_node_that_it_could_replace():
    new = {"a": Node("activation", ("nowhere",), "a"), "b": Node("activation", ("input",), "b")}
    assert edges(chain("a", "b").rewrite(new, drop=["a"])) == [("input", "b")]


@pytest.mark.parametrize(
    "replacements, drop, words",
    [
        ({"d": Node("activation", ("a",), "d")}, (), "no node writes 'd'"),
        ({}, ["d"], "no node writes 'd'"),
        ({}, ["a"], "reads 'a', which no earlier node writes"),
        ({"b": Node("activation", ("c",), "b")}, (), "reads 'c', which no earlier node writes"),
        ({"b": Node("activation", ("a",), "a")}, (), "'a' is written twice"),
        ({}, ["c"], "output 'c' is never written"),
    ],
)
def test_rewrite_checks(replacements, drop, words):
    with pytest.raises(ValueError, match=words):
        chain("a", "b", "c").rewrite(replacements, drop)
