"""Torch files made by hand: pickle programs, and files as releases wrote them that torch no longer writes."""

import pickle

import numpy as np

# () becomes ((), ()) and so on, sixty times: 2**60 values in a few hundred bytes. `q` stores the top of the stack, `h`
# pushes it again.
NESTED = b")" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60))
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001


def number(value):
    """The opcodes that push a whole number of any size."""
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def text(value, python2=False):
    """The opcodes that push a string; Python 2 had bytes for it."""
    value = value.encode()
    return b"U" + bytes([len(value)]) + value if python2 else b"X" + len(value).to_bytes(4, "little") + value


def storage(key, count, kind="FloatStorage", device="cpu", part=None, python2=False):
    """The opcodes that push a storage, of a zip if `part` is None.

    In a legacy file `part` is (key, start, length), or () for the whole.
    """
    words = [text("storage", python2), f"ctorch\n{kind}\n".encode(), text(key, python2), text(device, python2)]
    program = b"(" + b"".join(words) + number(count)
    if part is not None:
        program += b"(" + text(part[0]) + number(part[1]) + number(part[2]) + b"t" if part else b"N"
    return program + b"tQ"


def tensor(stored, offset, shape, strides, metadata=b"", function="_rebuild_tensor_v2"):
    """The opcodes that push a tensor of a storage; torch before 0.4 called _rebuild_tensor."""
    sizes = b"(" + b"".join(map(number, shape)) + b"t(" + b"".join(map(number, strides)) + b"t"
    rest = b"" if function == "_rebuild_tensor" else b"\x89ccollections\nOrderedDict\n)R" + metadata
    return f"ctorch._utils\n{function}\n(".encode() + stored + number(offset) + sizes + rest + b"tR"


def dict_of(**programs):
    """The pickle of a dict of what the programs push."""
    return b"\x80\x02}" + b"".join(text(name) + program + b"s" for name, program in programs.items()) + b"."


def legacy(program, storages):
    """A file of torch before 1.6: `program` is the pickle of its object, `storages` {key: array}."""
    machine = {"protocol_version": VERSION, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [pickle.dumps(item, 2) for item in (MAGIC, VERSION, machine)] + [program, pickle.dumps([*storages], 2)]
    for array in storages.values():
        array = np.asarray(array)
        parts += [array.size.to_bytes(8, "little"), array.astype(array.dtype.newbyteorder("<")).tobytes()]
    return b"".join(parts)
