"""Which part of a saved object holds the weights: a checkpoint of a trainer has them under a key, beside much else."""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import InputError, printable
from .pickle_objects import Global, Placeholder, Tensor

# In the order in which they are looked for. A moving average comes first, as in timm.models.load_state_dict: it is what
# timm and torchvision report the accuracy of.
AVERAGES = (
    *("state_dict_ema", "model_ema", "ema", "ema_state_dict", "model_ema_state_dict", "ema_model", "params_ema"),
)
WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "model_state", "net", "network", "weights", "params"),
    *("module", "state"),  # DeepSpeed and the averages of some trainers; Composer
)
_DEPTH = 6  # of wrappers in each other; a dict that holds itself must not be followed for ever
_LISTED = 10  # entries in a message


def choose_state_dict(root: object, key: str | None, name: str) -> tuple[dict[str, Tensor], list[str], str | None]:
    """The state dict in a checkpoint's root object, notes on what was chosen, and what its trainer calls the network.

    The weights are `root` itself, or stand under a key of AVERAGES or WRAPPERS, or under a single key of another name,
    or in a list; all that nested. `key`, if given, is the entry of `root` to look in. Entries beside the state dict may
    be anything. Raises InputError, which begins with `name`, if there is no state dict, if there are several to choose
    from, or if the chosen one holds anything but dense tensors.
    """
    notes: list[str] = []
    said = root.get("arch") if isinstance(root, dict) else None  # of timm's train.py and PyTorch's ImageNet example
    if key is not None:
        root = _entry(root, key, name)
    for _ in range(_DEPTH):
        table = _as_table(root)
        chosen = _choice(table, name, notes) if table is not None else None
        if chosen is None:
            break
        root = table[chosen]
    return _checked(root, name), notes, said if isinstance(said, str) else None


def _as_table(value: object) -> dict | None:
    """A dict as it is, a short list or tuple as a dict from "0" on, None for all else."""
    if isinstance(value, (list, tuple)) and len(value) <= 16:
        return {str(index): item for index, item in enumerate(value)}
    return value if isinstance(value, dict) else None


def _entry(root: object, key: str, name: str) -> object:
    """The entry `key` of the saved object."""
    table, known = _as_table(root) or {}, {}
    if key in table and _leads_to_tensors(table[key], known):
        return table[key]
    have = [other for other in table if isinstance(other, str) and _leads_to_tensors(table[other], known)]
    advice = f"its entries with weights are {_listed(have)}" if have else "give the path without '#'"
    raise InputError(f"{name}: has no weights under {printable(key)!r}; {advice}")


def _choice(table: dict, name: str, notes: list[str]) -> str | None:
    """The key of the entry that holds the weights, None if that is the table itself. A note where there are several."""
    known: dict[int, bool] = {}
    averages = [key for key in AVERAGES if _leads_to_tensors(table.get(key), known)]
    raw = [key for key in WRAPPERS if _leads_to_tensors(table.get(key), known)]
    if averages:
        others = f"; add #{raw[0]} to the path for the raw weights" if raw else ""
        notes.append(f"takes the moving average of the weights, {averages[0]!r}{others}")
        return averages[0]
    if raw:
        if len(raw) > 1:
            notes.append(f"takes the weights {raw[0]!r}; add #{raw[1]} to the path for the others")
        return raw[0]
    if any(map(_is_tensor, table.values())):
        return None
    known = {}
    others = [key for key, value in table.items() if isinstance(key, str) and _is_state_dict(value, known)]
    if len(others) > 1:
        raise InputError(f"{name}: holds several state dicts, {_listed(others)}; choose one, as in PATH#{others[0]}")
    if others:
        notes.append(f"takes the weights {printable(others[0])!r}, the only entry of named tensors")
    return others[0] if others else None


def _is_tensor(value: object) -> bool:
    """Whether a value is a tensor, be it of a kind that is not supported."""
    return isinstance(value, Tensor) or (isinstance(value, Placeholder) and value.name.startswith("torch._utils._re"))


# A file can hold one dict in many places, and in itself. So each is looked at once: `known` are answers by its id.


def _is_state_dict(value: object, known: dict[int, bool]) -> bool:
    """Whether a value is a dict of named tensors; the state of an optimizer has numbers for names."""
    if not isinstance(value, dict):
        return False
    if id(value) not in known:
        named = all(isinstance(key, str) for key in value)
        known[id(value)] = named and any(map(_is_tensor, value.values()))
    return known[id(value)]


def _leads_to_tensors(value: object, known: dict[int, bool]) -> bool:
    """Whether there is a dict of named tensors in `value`, under wrappers or directly."""
    if not isinstance(value, dict):
        return False
    if id(value) not in known:
        known[id(value)] = False  # while it is being looked at
        known[id(value)] = any(_is_tensor(item) for key, item in value.items() if isinstance(key, str)) or any(
            _leads_to_tensors(value.get(key), known) for key in AVERAGES + WRAPPERS
        )
    return known[id(value)]


def _checked(root: object, name: str) -> dict[str, Tensor]:
    """`root`, if it is a dict of named tensors."""
    advice = "save model.state_dict() instead"
    if not isinstance(root, dict):
        raise InputError(f"{name}: holds {_described(root)}, not a state dict; {advice}")
    for key, value in root.items():
        if isinstance(key, str) and isinstance(value, Tensor):
            continue
        if isinstance(value, Placeholder) and value.name.startswith("torch._utils._rebuild_"):
            what = f"tensor {printable(key)!r} is of a kind that is not supported ({printable(value.name)})"
            raise InputError(f"{name}: {what}; save dense float, int or bool tensors instead")
        if not isinstance(key, str):
            raise InputError(f"{name}: the names of its entries are not all text; {advice}")
        if not any(map(_is_tensor, root.values())):
            key, value = next(
                ((k, root[k]) for k in AVERAGES + WRAPPERS if isinstance(root.get(k), Placeholder)), (key, value)
            )
        what = f"its entry {printable(key)!r} is {_described(value)}, not a named tensor"
        raise InputError(f"{name}: {what}; {advice}")
    return root


def _described(value: object) -> str:
    if isinstance(value, (Placeholder, Global)):
        return f"an object of Python code, {printable(value.name)}, which is never executed here"
    if value is None:
        return "None"
    kind = type(value).__name__.lower()
    return f"an {kind}" if kind == "int" else f"a {kind}"


def _listed(keys: Iterable[str]) -> str:
    keys = [printable(repr(key)) for key in keys]
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(keys[:_LISTED]) + more
