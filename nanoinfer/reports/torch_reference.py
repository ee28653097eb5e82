"""The reference of a comparison: torch modules and their activations. No other module of the package imports torch."""

from __future__ import annotations

import importlib
import zipfile
from functools import partial

import numpy as np

from ..errors import InputError, printable

_operators = []  # torch forgets operators whose Library object is gone


def activations(module, x: np.ndarray) -> dict[str, np.ndarray]:
    """The output of every submodule for x (N, 3, H, W): {"name": float32 array}, later runs as "name:2".

    The module's own output is called "output". The module runs in eval mode, on its own device and in its own dtype,
    and gets its mode back.
    """
    torch = _import("torch")
    seen, handles, modes = {}, [], {part: part.training for part in module.modules()}

    def keep(name):
        def hook(_, inputs, output):
            output = output[0] if isinstance(output, (tuple, list)) else output  # attention: (values, weights)
            key, run = name or "output", 1
            while key in seen:
                run += 1
                key = f"{name}:{run}"
            if isinstance(output, torch.Tensor):
                # A copy: a later module may write into the same memory (ReLU(inplace=True)).
                seen[key] = output.detach().to("cpu", torch.float32, copy=True).numpy()

        return hook

    like = next(module.parameters(), torch.zeros(()))
    try:
        module.eval()
        handles = [part.register_forward_hook(keep(name)) for name, part in module.named_modules()]
        with torch.no_grad():
            module(torch.tensor(x).to(like.device, like.dtype))
    finally:
        for handle in handles:
            handle.remove()
        for part, training in modes.items():
            part.training = training
    return seen


def reference_module(model):
    """The torch module that timm or torchvision has under the model's name, with the model's weights.

    Raises InputError where no library has one, or is not installed.
    """
    library = model.architecture.library
    if library is None:
        raise InputError(
            f"no library has a torch module called {model.name}; compare with a dump of yours (--dump), or in Python: "
            "nanoinfer.compare(model, module, x)"
        )
    torch = _import("torch")
    torchvision = import_torchvision()  # before timm, which imports it and fails on missing operators
    if library == "timm":
        options = {key: value for key, value in model.arguments.items() if key in ("pad_type", "bn_eps", "global_pool")}
        options |= {"num_classes": model.classes, "in_chans": model.channels}
        module = _import("timm").create_model(model.name, pretrained=False, **options)
    elif not model.classes:
        raise InputError(f"torchvision's {model.name} has a head, and this network has none; compare with one")
    else:
        options = {key: value for key, value in model.arguments.items() if key in ("image_size", "width_mult")}
        if "layer_norm_eps" in model.arguments:
            options["norm_layer"] = partial(torch.nn.LayerNorm, eps=model.arguments["layer_norm_eps"])
        module = getattr(torchvision.models, model.name)(weights=None, **{**options, "num_classes": model.classes})
    state = {name: torch.tensor(np.asarray(array)) for name, array in model.tensors.items()}
    try:
        left = module.load_state_dict(state, strict=False)
    except RuntimeError as error:  # other shapes: a width that was changed
        raise InputError(f"{library}'s {model.name} does not take these weights: {error}") from None
    missing = [name for name in left.missing_keys if not name.endswith("num_batches_tracked")]
    if missing or left.unexpected_keys:
        names = ", ".join([*missing, *left.unexpected_keys][:5])
        raise InputError(f"{library}'s {model.name} has other tensors than nanoinfer's: {names}")
    return module.eval()


def read_dump(path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file of named activations. InputError for any other file, and for pickled objects."""
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("one array without a name")
        with file:
            arrays = {name: np.asarray(file[name]) for name in file.files}  # members that are no arrays come as bytes
    except (ValueError, EOFError, zipfile.BadZipFile, KeyError, AttributeError):
        raise InputError(
            f"{printable(path)}: is no .npz file of activations; docs/compare.md shows how to write one"
        ) from None
    wrong = [name for name, array in arrays.items() if array.dtype.kind not in "fiub"]
    if wrong:
        raise InputError(f"{printable(path)}: {printable(wrong[0])} is no array of numbers")
    return arrays


def _import(name: str):
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            f"a comparison with torch modules needs {name}: pip install {name}; or give a dump (--dump)"
        ) from None


def import_torchvision():
    """The module torchvision, also where its compiled operators cannot load.

    Beside a CPU-only torch the wheel's operators are absent, and the import stops while it describes nms and qnms. The
    models need neither, so in that case alone the two are declared (not implemented) and the import is repeated.
    """
    try:
        return _import("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
    library = _import("torch").library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _operators.append(library)
    return _import("torchvision")
