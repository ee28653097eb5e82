"""What a pickle's objects become: tensors become records, a few containers dicts, and all else inert placeholders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..arrays import is_shape

# torch's storage class -> dtype code without byte order; "bf" is bfloat16, which NumPy lacks.
_STORAGES = {
    "torch.DoubleStorage": "f8",
    "torch.FloatStorage": "f4",
    "torch.HalfStorage": "f2",
    "torch.BFloat16Storage": "bf",
    "torch.LongStorage": "i8",
    "torch.IntStorage": "i4",
    "torch.ShortStorage": "i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "b1",
}
_BYTES = "torch.storage.UntypedStorage"
# dtypes without a storage class of their own: their tensors are views of bytes.
_DTYPES = {"torch.uint16": "u2", "torch.uint32": "u4", "torch.uint64": "u8"}
ITEM_SIZES = {"bf": 2} | {code: int(code[1]) for code in (*_STORAGES.values(), *_DTYPES.values()) if code != "bf"}


class Malformed(Exception):
    """The pickle makes no sense, so the file is damaged (or hostile)."""


def expect(condition: object, problem: str) -> None:
    """Malformed unless `condition` holds."""
    if not condition:
        raise Malformed(problem)


@dataclass(frozen=True, eq=False)
class Global:
    """A class or function of the file, by its name; it is neither imported nor called."""

    name: str


@dataclass(frozen=True, eq=False)
class Placeholder:
    """Stands for an object of a class that holds no weights; `name` is the class, or the function that would make it.

    What the file puts into the object is dropped.
    """

    name: str


@dataclass(frozen=True)
class Storage:
    """`count` numbers under a `key`. `code` is a value of _STORAGES, or None for a `kind` that is not supported.

    A storage of a legacy file may be a part of that of its key, from number `start` on, of `length` numbers.
    """

    key: str
    kind: str
    code: str | None
    count: int
    start: int
    length: int


@dataclass(frozen=True, eq=False)
class Tensor:
    """A view of a storage; `offset` and `strides` count numbers of `code`. It may still reach beyond the storage."""

    storage: Storage
    code: str | None
    kind: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    negative: bool = False


def persistent(identifier: object) -> Storage | Global:
    """What a persistent id stands for.

    ("storage", storage class, key, device, count) is a storage; in legacy files a sixth item follows, None or
    (key of a part, start, length). ("module", class, file, source text) is the class of a whole pickled model.
    """
    expect(isinstance(identifier, tuple) and identifier, "a persistent id that is no storage")
    if identifier[0] == "module" and len(identifier) == 4 and isinstance(identifier[1], Global):
        return identifier[1]
    expect(len(identifier) in (5, 6) and identifier[0] == "storage", "a persistent id that is no storage")
    _, storage, key, _, count = identifier[:5]
    expect(isinstance(storage, Global) and isinstance(key, str), "a storage without class or key")
    expect(_is_size(count), "a storage without a size")
    start, length = 0, count
    if len(identifier) == 6 and identifier[5] is not None:
        expect(isinstance(identifier[5], tuple) and len(identifier[5]) == 3, "a part of a storage without bounds")
        _, start, length = identifier[5]
        expect(_is_size(start) and _is_size(length) and start + length <= count, "a part outside of its storage")
    code = "u1" if storage.name == _BYTES else _STORAGES.get(storage.name)
    return Storage(key, storage.name, code, count, start, length)


def result(name: str, arguments: tuple) -> object:
    """Stands for the result of the call that makes an object: function or class `name`, `arguments`."""
    make = _CALLS.get(name)
    return Placeholder(name) if make is None else make(arguments)


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _ordered_dict(arguments: tuple) -> dict:
    """An OrderedDict, as a dict. Python 2 gave it its items as a list of pairs; others add them afterwards."""
    expect(len(arguments) <= 1, "an OrderedDict with several arguments")
    table: dict = {}
    if arguments:
        expect(isinstance(arguments[0], list), "an OrderedDict of what is no list")
        for pair in arguments[0]:
            expect(isinstance(pair, (list, tuple)) and len(pair) == 2, "an OrderedDict with an item that is no pair")
            set_item(table, *pair)
        arguments[0].clear()  # nobody else needs the list, and a file cannot have it copied again and again
    return table


def set_item(table: dict, key: object, value: object) -> None:
    """table[key] = value. A key is replaced by a placeholder if it could make the table's hashes slow.

    A tuple can hold the same tuple twice, many levels deep, and any number of large integers have one hash.
    """
    small = isinstance(key, int) and abs(key) < 2**60
    if not (key is None or small or isinstance(key, (str, float, bytes))):
        key = Placeholder(type(key).__name__)
    table[key] = value


def _tensor(arguments: tuple) -> Tensor:
    """torch._utils._rebuild_tensor and _rebuild_tensor_v2: (storage, offset, shape, strides, ..., metadata)."""
    expect(4 <= len(arguments) <= 7, f"a tensor of {len(arguments)} fields")
    storage, offset, shape, strides = arguments[:4]
    expect(isinstance(storage, Storage), "a tensor without a storage")
    expect(_is_size(offset), "a tensor with an impossible offset")
    expect(isinstance(shape, tuple) and is_shape(shape), "a tensor with an impossible shape")
    expect(isinstance(strides, tuple) and len(strides) == len(shape), "a tensor with an impossible layout")
    expect(all(_is_size(stride) for stride in strides), "a tensor with impossible strides")
    negative = _is_negative(arguments[6]) if len(arguments) == 7 else False
    return Tensor(storage, storage.code, storage.kind, offset, shape, strides, negative)


def _is_negative(metadata: object) -> bool:
    """The negative bit of a tensor's metadata: its numbers are stored with the opposite sign."""
    expect(metadata is None or isinstance(metadata, dict), "a tensor with impossible metadata")
    return bool(metadata) and metadata.get("neg") is True


def _tensor_of_bytes(arguments: tuple) -> Tensor:
    """torch._utils._rebuild_tensor_v3: a view of bytes, with its dtype as the seventh argument."""
    expect(len(arguments) in (7, 8) and isinstance(arguments[6], Global), "a tensor without a dtype")
    view, kind = _tensor(arguments[:6]), arguments[6].name
    expect(view.storage.code == "u1", "a view of bytes in a storage of other numbers")
    negative = _is_negative(arguments[7]) if len(arguments) == 8 else False
    return Tensor(view.storage, _DTYPES.get(kind), kind, view.offset, view.shape, view.strides, negative)


def _parameter(arguments: tuple) -> object:
    """torch._utils._rebuild_parameter: (tensor, requires_grad, hooks), and its attributes in newer releases."""
    expect(arguments and isinstance(arguments[0], (Tensor, Placeholder)), "a Parameter without a tensor")
    return arguments[0]


def _tensor_of_type(arguments: tuple) -> object:
    """torch._tensor._rebuild_from_type_v2: (function, class of tensor, arguments of the function, attributes)."""
    expect(len(arguments) == 4 and isinstance(arguments[0], Global), "a tensor without a function that makes it")
    expect(isinstance(arguments[2], tuple), "a tensor without arguments")
    return result(arguments[0].name, arguments[2])


_CALLS: dict[str, Callable[[tuple], object]] = {
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": lambda arguments: {},
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_bytes,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _tensor_of_type,
}
