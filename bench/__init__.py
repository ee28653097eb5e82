"""Torch reference models, training and benchmarks: used in development and tests, never at run time."""

import os

# NumPy's matrix products are oracles here. After one, OpenBLAS's threads spin for a tenth of a second, on the cores
# that are timed next; they are not started if this stands before NumPy is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
