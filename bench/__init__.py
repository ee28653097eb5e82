"""Torch reference models, training and benchmarks: used in development and tests, never at run time."""
