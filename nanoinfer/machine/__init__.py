"""The machine: what its CPU is, how networks are planned for it, and what it can do at most.

Read `tuning` (every constant that decides a plan, in one table), `cpu` (the Machine that planning takes as input, and
the one that this process runs on), `memory` (how much is left), `roofline` (peak arithmetic and bandwidths, measured).
"""

from .cpu import Machine, host
from .memory import available_bytes
from .tuning import Numerics, Tuning

__all__ = ["Machine", "Numerics", "Tuning", "available_bytes", "host"]
