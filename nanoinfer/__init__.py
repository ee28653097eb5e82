"""nanoinfer: CPU inference for vision networks in NumPy and Numba.

    import nanoinfer
    model = nanoinfer.create_model("digits")
    model.predict(["seven.png"], topk=3)

Names are imported when they are first used, so that a command pays only for what it needs. `nanoinfer.kernels` and
`nanoinfer.weights` are the folders kernels/ and weights/ beside this one (package_dir in setup.cfg).
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers take this name for true; to import `typing` takes 5 ms
if TYPE_CHECKING:
    from .architectures import list_models
    from .batch.predictor import Predictor
    from .errors import InputError
    from .model import Model, create_model
    from .preprocessing import Preprocessing
    from .reports.compare import compare
    from .reports.inspect import inspect
    from .weights import load_weights

__version__ = "0.1.0"

_HOMES = {
    "InputError": ".errors",
    "Model": ".model",
    "Predictor": ".batch.predictor",
    "Preprocessing": ".preprocessing",
    "compare": ".reports.compare",  # no module is called compare or inspect: its import would replace the function
    "create_model": ".model",
    "inspect": ".reports.inspect",
    "list_models": ".architectures",
    "load_weights": ".weights",
}

__all__ = [
    "InputError",
    "Model",
    "Predictor",
    "Preprocessing",
    "__version__",
    "compare",
    "create_model",
    "inspect",
    "list_models",
    "load_weights",
]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
