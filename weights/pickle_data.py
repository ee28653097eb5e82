"""The pickle inside a torch checkpoint, interpreted as data: nothing is imported, called or executed.

A pickle is a program for a small stack machine. pickletools splits it into opcodes without running them, and _OPCODES
holds a function for each of the few that torch.save needs for a state dict. A tensor comes out as a `Tensor` record
that says where its numbers lie. Everything else is refused: other opcodes, and names of other code.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import InputError, printable
from .arrays import StrPath, is_shape

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
_ORDERED_DICT = "collections.OrderedDict"
_TENSOR = "torch._utils._rebuild_tensor_v2"
_PARAMETER = "torch._utils._rebuild_parameter"
_ALLOWED = {_ORDERED_DICT, _TENSOR, _PARAMETER, *_STORAGES}


@dataclass(frozen=True)
class Storage:
    """The zip entry "data/<key>" of `count` numbers; `code` is a value of _STORAGES."""

    key: str
    code: str
    count: int


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; `offset` and `strides` count numbers, not bytes. It may still reach beyond the storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Global:
    name: str


class _Malformed(Exception):
    """The program makes no sense, so the file is damaged (or hostile)."""


def read_pickle(data: bytes, path: StrPath) -> object:
    """The object in the bytes of data.pkl, of dicts, lists, tuples, numbers, strings and Tensor records.

    Raises InputError, which names the file `path`, if the pickle is damaged or names anything that is not tensor data.
    """
    machine = _Machine(path)
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except InputError:
        raise
    except Exception as error:  # pickletools raises many kinds on damaged bytes; all mean the same to the user
        raise InputError(
            f"{printable(path)}: its data.pkl is damaged ({printable(error)}); download or save the file again"
        ) from None


def _refuse(path: StrPath, name: str) -> InputError:
    """The error of a pickle that needs the code `name`."""
    if name.startswith("torch._utils._rebuild_"):
        what = (
            f"{printable(name)}, a kind of tensor that is not supported; save dense float, int or bool tensors instead"
        )
        return InputError(f"{printable(path)}: contains {what}")
    return InputError(
        f"{printable(path)}: contains {printable(name)}, which is not tensor data; save model.state_dict() instead"
    )


def _expect(condition: object, problem: str) -> None:
    if not condition:
        raise _Malformed(problem)


class _Machine:
    """The state of a pickle program: the stack, the stacks below each open MARK, and the memo."""

    def __init__(self, path: StrPath):
        self.path = path
        self.stack, self.below, self.memo = [], [], {}

    def step(self, name: str, argument: object) -> None:
        """Carry out one opcode; InputError if a state dict does not need it."""
        if name not in _OPCODES:
            raise _refuse(self.path, f"the pickle opcode {name}")
        _OPCODES[name](self, argument)

    def push(self, item: object) -> None:
        self.stack.append(item)

    def pop(self) -> object:
        _expect(self.stack, "the stack is empty")
        return self.stack.pop()

    def pop_mark(self) -> list:
        """The items above the last MARK."""
        _expect(self.below, "no MARK is open")
        items, self.stack = self.stack, self.below.pop()
        return items

    def top(self, kind: type) -> object:
        """The last item, which stays on the stack and must be of class `kind`."""
        _expect(self.stack and isinstance(self.stack[-1], kind), f"expected a {kind.__name__}")
        return self.stack[-1]

    def push_global(self, name: str) -> None:
        if name not in _ALLOWED:
            raise _refuse(self.path, name)
        self.push(_Global(name))


def _mark(machine, _):
    machine.below.append(machine.stack)
    machine.stack = []


def _memoize(machine, _):
    machine.memo[len(machine.memo)] = machine.top(object)


def _put(machine, index):
    machine.memo[index] = machine.top(object)


def _short_tuple(length):
    def push_tuple(machine, _):
        machine.push(tuple(reversed([machine.pop() for _ in range(length)])))

    return push_tuple


def _tuple(machine, _):
    items = machine.pop_mark()  # which brings the stack back that the tuple goes to
    machine.push(tuple(items))


def _append(machine, _):
    item = machine.pop()
    machine.top(list).append(item)


def _appends(machine, _):
    items = machine.pop_mark()
    machine.top(list).extend(items)


def _setitem(machine, _):
    value, key = machine.pop(), machine.pop()
    _set_items(machine.top(dict), [key, value])


def _setitems(machine, _):
    items = machine.pop_mark()
    _set_items(machine.top(dict), items)


def _set_items(table: dict, items: list) -> None:
    _expect(len(items) % 2 == 0, "a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Only scalars: hashing a tuple that holds the same tuple twice, many levels deep, would never end.
        _expect(key is None or isinstance(key, (str, int, float)), "a key that is no text or number")
        table[key] = value


def _stack_global(machine, _):
    attribute, module = machine.pop(), machine.pop()
    _expect(isinstance(attribute, str) and isinstance(module, str), "a global without a name")
    machine.push_global(f"{module}.{attribute}")


def _reduce(machine, _):
    arguments, function = machine.pop(), machine.pop()
    _expect(isinstance(function, _Global) and isinstance(arguments, tuple), "REDUCE without a function")
    machine.push(_result(function.name, arguments))


def _build(machine, _):  # sets attributes; those of a state dict are _metadata, versions of modules and no tensors
    machine.pop()
    machine.top(dict)


def _storage(identifier: object) -> Storage:
    """The persistent id ("storage", storage class, key, device, count) -> Storage."""
    _expect(isinstance(identifier, tuple) and len(identifier) == 5, "a persistent id that is no storage")
    kind, storage, key, _, count = identifier
    _expect(kind == "storage" and isinstance(storage, _Global) and storage.name in _STORAGES, "an unknown storage")
    _expect(isinstance(key, str) and type(count) is int and count >= 0, "a storage without key or size")
    return Storage(key, _STORAGES[storage.name], count)


def _result(name: str, arguments: tuple) -> object:
    """The result that a call of the allowed function `name` would have."""
    if name == _ORDERED_DICT:
        _expect(arguments == (), "an OrderedDict with arguments")
        return {}  # a dict keeps its order
    if name == _PARAMETER:
        _expect(len(arguments) == 3 and isinstance(arguments[0], Tensor), "a Parameter without a tensor")
        return arguments[0]
    _expect(name == _TENSOR and len(arguments) == 6, f"a call of {name} with {len(arguments)} arguments")
    storage, offset, shape, strides = arguments[:4]
    _expect(isinstance(storage, Storage), "a tensor without a storage")
    _expect(type(offset) is int and offset >= 0, "a tensor with an impossible offset")
    _expect(isinstance(shape, tuple) and is_shape(shape), "a tensor with an impossible shape")
    _expect(isinstance(strides, tuple) and len(strides) == len(shape), "a tensor with an impossible layout")
    _expect(all(type(stride) is int and stride >= 0 for stride in strides), "a tensor with impossible strides")
    return Tensor(storage, offset, shape, strides)


def _push_constant(value):
    return lambda machine, _: machine.push(value)


def _push_argument(machine, argument):
    machine.push(argument)


_LITERALS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
)

# Opcode, by the name that pickletools gives it -> its effect on the machine, given the opcode's argument.
_OPCODES: dict[str, Callable[[_Machine, object], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "NONE": _push_constant(None),
    "NEWTRUE": _push_constant(True),
    "NEWFALSE": _push_constant(False),
    "EMPTY_TUPLE": _push_constant(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    **dict.fromkeys(_LITERALS, _push_argument),
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "MEMOIZE": _memoize,
    "BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "MARK": _mark,
    "TUPLE": _tuple,
    "TUPLE1": _short_tuple(1),
    "TUPLE2": _short_tuple(2),
    "TUPLE3": _short_tuple(3),
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": _setitem,
    "SETITEMS": _setitems,
    "GLOBAL": lambda machine, name: machine.push_global(name.replace(" ", ".", 1)),
    "STACK_GLOBAL": _stack_global,
    "BINPERSID": lambda machine, _: machine.push(_storage(machine.pop())),
    "REDUCE": _reduce,
    "BUILD": _build,
}
