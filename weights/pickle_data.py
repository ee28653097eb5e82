"""The pickle inside a torch checkpoint, interpreted as data: nothing is imported, called or executed.

A pickle is a program for a small stack machine. pickletools splits it into opcodes without running them, and `_Machine`
carries out the few that torch.save needs for a state dict. A tensor comes out as a `Tensor` record that says where
its numbers lie; anything that would name other code is refused.
"""

import pickletools
from dataclasses import dataclass

from ..errors import InputError, printable
from .arrays import is_shape

# torch's storage classes -> dtype code without byte order; "bf" is bfloat16, which NumPy lacks.
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

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = set("BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT".split())
_LITERALS |= set("BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINSTRING SHORT_BINSTRING".split())
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class Storage:
    """A zip entry ``data/<key>`` of ``count`` numbers; ``code`` is a value of _STORAGES."""

    key: str
    code: str
    count: int


@dataclass(frozen=True)
class Tensor:
    """A view of a storage. ``offset`` and ``strides`` count numbers, not bytes. Not yet checked against the storage."""

    storage: Storage
    offset: int
    shape: tuple
    strides: tuple


@dataclass(frozen=True)
class _Global:
    name: str


class _Malformed(Exception):
    """The program makes no sense, so the file is damaged (or hostile)."""


def read_pickle(data, path):
    """bytes of data.pkl -> dicts, lists, tuples, numbers, strings and Tensor records.

    InputError if the pickle is damaged, or if it names anything that is not tensor data.
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


def _refuse(path, name):
    if name.startswith("torch._utils._rebuild_"):
        what = (
            f"{printable(name)}, a kind of tensor that is not supported; save dense float, int or bool tensors instead"
        )
        return InputError(f"{printable(path)}: contains {what}")
    return InputError(
        f"{printable(path)}: contains {printable(name)}, which is not tensor data; save model.state_dict() instead"
    )


def _need(condition, problem):
    if not condition:
        raise _Malformed(problem)


class _Machine:
    """The stack, the stacks below each open MARK, and the memo of a pickle program."""

    def __init__(self, path):
        self.path = path
        self.stack, self.below, self.memo = [], [], {}

    def pop(self):
        _need(self.stack, "the stack is empty")
        return self.stack.pop()

    def pop_mark(self):
        """The items above the last MARK."""
        _need(self.below, "no MARK is open")
        items, self.stack = self.stack, self.below.pop()
        return items

    def top(self, kind):
        _need(self.stack and isinstance(self.stack[-1], kind), f"expected a {kind.__name__}")
        return self.stack[-1]

    def step(self, name, argument):
        """Carry out one opcode; InputError if it is not one that a state dict needs."""
        push = self.stack.append
        if name in _CONSTANTS:
            push(_CONSTANTS[name])
        elif name in _LITERALS:
            push(argument)
        elif name in _SHORT_TUPLES:
            push(tuple(reversed([self.pop() for _ in range(_SHORT_TUPLES[name])])))
        elif name in ("PROTO", "FRAME"):
            pass
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.top(object)
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.top(object)
        elif name in ("BINGET", "LONG_BINGET"):
            push(self.memo[argument])
        elif name == "MARK":
            self.below.append(self.stack)
            self.stack = []
        elif name == "TUPLE":
            items = tuple(self.pop_mark())
            self.stack.append(items)
        elif name == "EMPTY_LIST":
            push([])
        elif name == "APPEND":
            item = self.pop()
            self.top(list).append(item)
        elif name == "APPENDS":
            items = self.pop_mark()
            self.top(list).extend(items)
        elif name == "EMPTY_DICT":
            push({})
        elif name == "SETITEM":
            value, key = self.pop(), self.pop()
            _set_items(self.top(dict), [key, value])
        elif name == "SETITEMS":
            items = self.pop_mark()
            _set_items(self.top(dict), items)
        elif name == "GLOBAL":
            push(self.named(argument.replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = self.pop(), self.pop()
            _need(isinstance(attribute, str) and isinstance(module, str), "a global without a name")
            push(self.named(f"{module}.{attribute}"))
        elif name == "BINPERSID":
            push(_storage(self.pop()))
        elif name == "REDUCE":
            arguments, function = self.pop(), self.pop()
            _need(isinstance(function, _Global) and isinstance(arguments, tuple), "REDUCE without a function")
            push(_reduce(function.name, arguments))
        elif name == "BUILD":  # sets attributes, which on a state dict is _metadata: versions of modules, no tensor
            self.pop()
            self.top(dict)
        else:
            raise _refuse(self.path, f"the pickle opcode {name}")

    def named(self, name):
        if name not in _ALLOWED:
            raise _refuse(self.path, name)
        return _Global(name)


def _set_items(table, items):
    _need(len(items) % 2 == 0, "a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Only scalars: hashing a tuple that holds the same tuple twice, many levels deep, would never end.
        _need(key is None or isinstance(key, (str, int, float)), "a key that is no text or number")
        table[key] = value


def _storage(identifier):
    """The persistent id ("storage", storage class, key, device, count) -> Storage."""
    _need(isinstance(identifier, tuple) and len(identifier) == 5, "a persistent id that is no storage")
    kind, storage, key, _, count = identifier
    _need(kind == "storage" and isinstance(storage, _Global) and storage.name in _STORAGES, "an unknown storage")
    _need(isinstance(key, str) and type(count) is int and count >= 0, "a storage without key or size")
    return Storage(key, _STORAGES[storage.name], count)


def _reduce(name, arguments):
    """What calling one of the allowed functions would give."""
    if name == _ORDERED_DICT:
        _need(arguments == (), "an OrderedDict with arguments")
        return {}  # a dict keeps its order
    if name == _PARAMETER:
        _need(len(arguments) == 3 and isinstance(arguments[0], Tensor), "a Parameter without a tensor")
        return arguments[0]
    _need(name == _TENSOR and len(arguments) == 6, f"a call of {name} with {len(arguments)} arguments")
    storage, offset, shape, strides = arguments[:4]
    _need(isinstance(storage, Storage), "a tensor without a storage")
    _need(type(offset) is int and offset >= 0, "a tensor with an impossible offset")
    _need(isinstance(shape, tuple) and is_shape(shape), "a tensor with an impossible shape")
    _need(isinstance(strides, tuple) and len(strides) == len(shape), "a tensor with an impossible layout")
    _need(all(type(stride) is int and stride >= 0 for stride in strides), "a tensor with impossible strides")
    return Tensor(storage, offset, shape, strides)
