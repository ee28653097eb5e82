"""The graph: what a network computes, without a word on how.

Read `ir` (values, nodes, the graph), `builder` (how architectures make one), `ops` (what each operator means: its shape
and its reference in NumPy), `passes` (graph to graph: the same network in fewer steps).
"""

from .builder import Builder
from .ir import INPUT, Graph, Node, Value

__all__ = ["INPUT", "Builder", "Graph", "Node", "Value"]
