"""Files for the tests of nanoinfer.weights: sound, damaged and hostile ones; and the checks of what loading gives."""

import json
import zipfile
from collections import OrderedDict

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from nanoinfer.weights import load_weights

from tests.helpers import refused

# A function-scoped tmp_path is safe here: every example overwrites its files.
many_examples = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def refused_source(source, *parts):
    """load_weights(source) raises an InputError of one short line that has `parts` in order and says what to do."""
    with refused(*parts) as caught:
        load_weights(source)
    message = str(caught.value)
    assert len(message) < 700
    assert ";" in message, "the message says what to do next"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None, "no traceback from inside"


def assert_equals_torch(arrays, tensors):
    """`arrays` hold the same names and values as `tensors`, with every floating dtype as float32."""
    assert sorted(arrays) == sorted(tensors)
    for name, tensor in tensors.items():
        expected = (tensor.detach().float() if tensor.dtype.is_floating_point else tensor.detach()).numpy()
        assert (arrays[name].dtype, arrays[name].shape) == (expected.dtype, expected.shape), name
        array = np.asarray(arrays[name])
        assert array.dtype == expected.dtype != np.float64 and array.shape == expected.shape, name
        assert array.dtype.isnative and array.flags.c_contiguous and array.flags.aligned, name
        np.testing.assert_array_equal(array, expected, err_msg=name)


def every_dtype():
    """{name: tensor}: all dtypes of a state dict, with a scalar and an empty tensor of each."""
    import torch  # here, since most of this folder can do without

    generator = torch.Generator().manual_seed(1)
    tensors = OrderedDict()
    floating = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
    for dtype in [*floating, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]:
        name = str(dtype).split(".")[1]
        tensors[f"{name}.weight"] = (torch.randn(5, 3, 2, generator=generator) * 50).abs().to(dtype)
        tensors[f"{name}.scalar"] = torch.tensor(3.0).to(dtype)
        tensors[f"{name}.empty"] = torch.zeros(2, 0, 3).to(dtype)
    return tensors


def damaged(content, data):
    """`content` cut short, or with a few bits flipped, as Hypothesis's `data` draws."""
    if data.draw(st.booleans(), label="truncate"):
        return content[: data.draw(st.integers(0, len(content) - 1), label="length")]
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3), label="flips")):
        bit = data.draw(st.integers(0, len(content) * 8 - 1), label="bit")
        content[bit // 8] ^= 1 << bit % 8
    return bytes(content)


def rewrite_checkpoint(source, target, changes, compression=zipfile.ZIP_STORED):
    """Copy a torch zip with the entries in `changes` replaced, or left out if their content is None.

    Entries are named without the archive's folder.
    """
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for item in old.infolist():
            content = changes.get(item.filename.split("/", 1)[1], old.read(item))
            if content is not None:
                new.writestr(item.filename, content)


def write_checkpoint(path, program):
    """Write a torch zip whose data.pkl is `program` and whose one storage holds four float32: 0, 1, 2, 3."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", program)
        archive.writestr("m/data/0", np.arange(4, dtype="<f4").tobytes())


def write_safetensors(path, header, data=b"", pad=0):
    """Write a file with any header, whose data begin `pad` bytes after a multiple of eight."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * ((pad - len(text)) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
