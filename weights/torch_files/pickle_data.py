"""The pickle inside a torch checkpoint, interpreted as data: nothing is imported, called or executed.

A pickle is a program for a small stack machine. pickletools splits it into opcodes without running them, and _OPCODES
holds a function for each. Objects become what `pickle_objects` says: tensors are records that say where their numbers
lie, and an object of any class without weights is a placeholder. Three opcodes of rare extensions are refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import BinaryIO

from ...errors import InputError, printable
from .pickle_objects import Global, Placeholder, Storage, expect, persistent, result, set_item

# A tensor takes about 100 bytes and 40 opcodes, and a checkpoint with optimizer and moving average has some thousands.
MAX_BYTES = 32 * 2**20
MAX_OPCODES = 1_000_000
_MAX_BITS = 8192  # of a whole number; states of random generators have up to 128


def read_pickle(file: BinaryIO, name: str) -> tuple[object, dict[str, Storage]]:
    """The object of the pickle that begins at the position of `file`, and the storages that it names, by key.

    The object consists of dicts, lists, tuples, sets as lists, numbers, strings, bytes and what `pickle_objects`
    defines. The position is then behind the pickle. Raises InputError, which begins with `name`, if the pickle is
    damaged or longer than any checkpoint's.
    """
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if opcode.name == "STOP":
                return machine.pop(), machine.storages
            if count == MAX_OPCODES:
                raise too_long(name, f"{MAX_OPCODES:,} instructions")
            expect(opcode.name in _OPCODES, f"the opcode {opcode.name}, which torch.save never writes")
            _OPCODES[opcode.name](machine, argument)
    except InputError:
        raise
    except Exception as error:  # pickletools raises many kinds on damaged bytes; all mean the same to the user
        raise InputError(
            f"{name}: its pickle is damaged ({printable(error)}); download or save the file again"
        ) from None
    raise AssertionError("genops ends with STOP or raises")


def too_long(name: str, limit: str) -> InputError:
    """The error of a pickle that would take more time or memory than that of any checkpoint."""
    what = f"its pickle has more than {limit}, far more than a state dict needs"
    return InputError(f"{name}: {what}; save model.state_dict() alone")


class _Machine:
    """The state of a pickle program: the stack, the stacks below each open MARK, the memo, and all storages."""

    def __init__(self):
        self.stack, self.below, self.memo = [], [], {}
        self.storages: dict[str, Storage] = {}

    def push(self, item: object) -> None:
        self.stack.append(item)

    def pop(self) -> object:
        expect(self.stack, "the stack is empty")
        return self.stack.pop()

    def pop_mark(self) -> list:
        """The items above the last MARK."""
        expect(self.below, "no MARK is open")
        items, self.stack = self.stack, self.below.pop()
        return items

    def top(self, *kinds: type) -> object:
        """The last item, which stays on the stack and must be of one of the classes `kinds`."""
        expect(self.stack and isinstance(self.stack[-1], kinds), f"expected a {kinds[0].__name__}")
        return self.stack[-1]


def _mark(machine, _):
    machine.below.append(machine.stack)
    machine.stack = []


def _memoize(machine, _):
    machine.memo[len(machine.memo)] = machine.top(object)


def _put(machine, index):
    expect(index < 2**32, "a memo of impossible size")
    machine.memo[index] = machine.top(object)


def _short_tuple(length):
    def push_tuple(machine, _):
        machine.push(tuple(reversed([machine.pop() for _ in range(length)])))

    return push_tuple


def _pop(machine, _):
    if machine.stack:
        machine.stack.pop()
    else:  # the last MARK itself
        machine.pop_mark()


def _of_mark(make):
    def push(machine, _):
        items = machine.pop_mark()  # which brings the stack back that the new object goes to
        machine.push(make(items))

    return push


def _append(machine, _):
    item = machine.pop()
    _extend(machine, [item])


def _appends(machine, _):
    items = machine.pop_mark()
    _extend(machine, items)


def _extend(machine, items):
    target = machine.top(list, Placeholder)
    if isinstance(target, list):
        target.extend(items)


def _setitem(machine, _):
    value, key = machine.pop(), machine.pop()
    _set_items(machine, [key, value])


def _setitems(machine, _):
    items = machine.pop_mark()
    _set_items(machine, items)


def _set_items(machine, items):
    target = machine.top(dict, Placeholder)
    if isinstance(target, dict):
        _fill(target, items)


def _fill(table: dict, items: list) -> dict:
    expect(len(items) % 2 == 0, "a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        set_item(table, key, value)
    return table


def _stack_global(machine, _):
    attribute, module = machine.pop(), machine.pop()
    expect(isinstance(attribute, str) and isinstance(module, str), "a global without a name")
    # A new string of two that are on the stack, perhaps again and again.
    expect(len(module) + len(attribute) < 1000, "a global whose name has no end")
    machine.push(Global(f"{module}.{attribute}"))


def _reduce(machine, _):
    arguments, function = machine.pop(), machine.pop()
    _call(machine, function, arguments)


def _newobj_ex(machine, _):
    _, arguments, function = machine.pop(), machine.pop(), machine.pop()
    _call(machine, function, arguments)


def _obj(machine, _):
    items = machine.pop_mark()
    expect(items, "OBJ without a class")
    _call(machine, items[0], tuple(items[1:]))


def _inst(machine, name):
    items = machine.pop_mark()
    _call(machine, Global(_dotted(name)), tuple(items))


def _call(machine, function, arguments):
    expect(isinstance(arguments, tuple), "a call without arguments")
    # A function may itself be an object of the file, such as functools.partial; what it would make is unknown.
    expect(isinstance(function, (Global, Placeholder)), "a call of what is no function")
    made = result(function.name, arguments) if isinstance(function, Global) else Placeholder(function.name)
    machine.push(made)


def _build(machine, _):  # sets attributes; those of a state dict are _metadata, versions of modules and no tensors
    machine.pop()
    machine.top(object)


def _binpersid(machine, _):
    found = persistent(machine.pop())
    if isinstance(found, Storage):
        machine.storages.setdefault(found.key, found)
    machine.push(found)


def _number(machine, argument):
    expect(not isinstance(argument, int) or argument.bit_length() <= _MAX_BITS, "a number of too many digits")
    machine.push(argument)


def _dotted(name: str) -> str:
    return name.replace(" ", ".", 1)  # pickletools joins module and name by a space


def _push_constant(value):
    return lambda machine, _: machine.push(value)


def _push_argument(machine, argument):
    machine.push(argument)


_LITERALS = (
    *("BININT", "BININT1", "BININT2", "BINFLOAT", "FLOAT", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING", "STRING", "UNICODE"),
)

# Opcode, by the name that pickletools gives it -> its effect on the machine, given the opcode's argument. Not here are
# extensions (EXT1, EXT2, EXT4), buffers outside of the pickle (NEXT_BUFFER) and ids as text (PERSID).
_OPCODES: dict[str, Callable[[_Machine, object], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "NONE": _push_constant(None),
    "NEWTRUE": _push_constant(True),
    "NEWFALSE": _push_constant(False),
    "EMPTY_TUPLE": _push_constant(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push([]),
    **dict.fromkeys(_LITERALS, _push_argument),
    **dict.fromkeys(("INT", "LONG", "LONG1", "LONG4"), _number),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, index: machine.push(machine.memo[index])),
    "MEMOIZE": _memoize,
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": lambda machine, _: machine.pop_mark(),
    "DUP": lambda machine, _: machine.push(machine.top(object)),
    "TUPLE": _of_mark(tuple),
    "TUPLE1": _short_tuple(1),
    "TUPLE2": _short_tuple(2),
    "TUPLE3": _short_tuple(3),
    "LIST": _of_mark(list),
    "DICT": _of_mark(lambda items: _fill({}, items)),
    "FROZENSET": _of_mark(list),
    "APPEND": _append,
    "APPENDS": _appends,
    "ADDITEMS": _appends,
    "SETITEM": _setitem,
    "SETITEMS": _setitems,
    "GLOBAL": lambda machine, name: machine.push(Global(_dotted(name))),
    "STACK_GLOBAL": _stack_global,
    "BINPERSID": _binpersid,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _newobj_ex,
    "OBJ": _obj,
    "INST": _inst,
    "BUILD": _build,
}
