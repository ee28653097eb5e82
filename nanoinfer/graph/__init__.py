"""The graph: what a network computes, without a word on how.

Read `ir` (values, nodes, the graph) first, then `builder` (how an architecture makes a graph), `ops` (the shape and the
NumPy reference of each operator), `variants` (a graph without its head, or for other input channels) and `passes`
(rewrites of a graph into the same network with fewer steps).
"""

from .builder import Builder
from .ir import INPUT, Graph, Node, Value

__all__ = ["INPUT", "Builder", "Graph", "Node", "Value"]
