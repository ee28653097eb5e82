"""Tensors under another library's names, brought to ours by the architecture's dialects."""

from __future__ import annotations

from ..architectures import Architecture, Dialect, left_out, spoken, translated
from ..weights import WeightSource


def in_own_names(architecture: Architecture, source: WeightSource) -> tuple[WeightSource, Dialect | None]:
    """The source under the architecture's own names, and the dialect that it was in, None if these are its own."""
    dialect = spoken(architecture.dialects, source.arrays)
    if dialect is None:
        return source, None
    unused = left_out(dialect, source.arrays)
    notes = (f"leaves out {', '.join(unused)}, which the network does not have",) if unused else ()
    arrays = translated(dialect, source.arrays)
    return source._replace(arrays=arrays, notes=(*source.notes, *notes)), dialect
