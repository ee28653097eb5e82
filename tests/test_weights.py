"""nanoinfer.weights: every format and dtype against torch, every damaged file to a one-line InputError."""

import json
import os
import pickle
import stat
import subprocess
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nanoinfer.weights import InputError, load_weights, save_safetensors
from nanoinfer.weights.hub import hub_file
from nanoinfer.weights.safetensors_file import read_metadata

quick = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def refused(source, *words):
    """load_weights(source) raises an InputError of one line that contains every word."""
    with pytest.raises(InputError) as caught:
        load_weights(source)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700
    assert ";" in message, "the message says what to do next"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None, "no traceback from inside"
    for word in words:
        assert word in message, message
    return message


def assert_equals_torch(arrays, tensors):
    assert sorted(arrays) == sorted(tensors)
    for name, tensor in tensors.items():
        expected = (tensor.detach().float() if tensor.dtype.is_floating_point else tensor.detach()).numpy()
        array = arrays[name]
        assert isinstance(array, np.ndarray) and array.dtype == expected.dtype and array.shape == expected.shape, name
        assert array.dtype != np.float64 and array.flags.c_contiguous and array.flags.aligned, name
        np.testing.assert_array_equal(array, expected, err_msg=name)


def every_dtype():
    """{name: tensor}: all dtypes of a state dict, with a scalar and an empty tensor of each."""
    import torch

    generator = torch.Generator().manual_seed(1)
    tensors = OrderedDict()
    floating = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
    for dtype in [*floating, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]:
        name = str(dtype).split(".")[1]
        tensors[f"{name}.weight"] = (torch.randn(5, 3, 2, generator=generator) * 50).abs().to(dtype)
        tensors[f"{name}.scalar"] = torch.tensor(3.0).to(dtype)
        tensors[f"{name}.empty"] = torch.zeros(2, 0, 3).to(dtype)
    return tensors


@pytest.fixture(scope="module")
def torch_bytes(tmp_path_factory):
    """A small checkpoint of torch.save, as bytes."""
    import torch

    path = tmp_path_factory.mktemp("torch") / "model.pth"
    torch.save(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).state_dict(), path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def safetensors_bytes(tmp_path_factory):
    path = tmp_path_factory.mktemp("safetensors") / "model.safetensors"
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4), "c": np.ones((3, 3), np.float16)}
    save_safetensors(arrays, path, {"format": "np"})
    return path.read_bytes()


# --- what torch and safetensors write ---------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_torch_zip_holds_every_dtype(tmp_path, protocol):
    import torch

    tensors = every_dtype()
    torch.save(tensors, tmp_path / "model.pth", pickle_protocol=protocol)
    arrays = load_weights(tmp_path / "model.pth")
    assert list(arrays) == list(tensors)
    assert_equals_torch(arrays, tensors)


def test_safetensors_holds_every_dtype(tmp_path):
    from safetensors.torch import save_file

    save_file(every_dtype(), tmp_path / "model.safetensors", {"format": "pt"})
    assert_equals_torch(load_weights(str(tmp_path / "model.safetensors")), every_dtype())
    assert read_metadata(tmp_path / "model.safetensors") == {"format": "pt"}


def test_special_values_survive_every_width(tmp_path):
    import torch

    special = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-40, 1e300, -1e-7])
    tensors = {"f32": special.float(), "f16": special.half(), "bf16": special.bfloat16(), "f64": special.double()}
    torch.save(tensors, tmp_path / "model.pt")
    arrays = load_weights(tmp_path / "model.pt")
    assert_equals_torch(arrays, tensors)
    for name in tensors:
        np.testing.assert_array_equal(np.signbit(arrays[name][:4]), [False, True, False, True])


def test_state_dict_of_a_module_keeps_names_order_and_counters(tmp_path):
    import torch

    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    torch.save(module.state_dict(), tmp_path / "model.pth")
    arrays = load_weights(tmp_path / "model.pth")
    assert list(arrays) == list(module.state_dict())
    assert arrays["1.num_batches_tracked"].dtype == np.int64
    assert_equals_torch(arrays, module.state_dict())


def test_strided_shared_and_offset_tensors(tmp_path):
    import torch

    base = torch.arange(48.0)
    tensors = {
        "base": base,
        "same": base,
        "offset": base[5:17].view(3, 4),
        "transposed": base.view(6, 8).t(),
        "steps": base[1::3],
        "expanded": torch.tensor([2.0]).expand(3, 4),
        "channels_last": torch.arange(60.0).view(1, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "half_transposed": torch.arange(6.0).half().view(2, 3).t(),
        "size_one": torch.as_strided(base, (1, 4, 1), (99, 1, 1000)),
        "parameter": torch.nn.Parameter(base.view(2, 24)),
    }
    torch.save(tensors, tmp_path / "model.pth")
    arrays = load_weights(tmp_path / "model.pth")
    assert_equals_torch(arrays, tensors)
    assert np.shares_memory(arrays["base"], arrays["offset"]), "tied weights stay tied"


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict"])
def test_wrapped_checkpoints_and_data_parallel(tmp_path, wrapper):
    import torch

    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    wrapped = {"module." + name: tensor for name, tensor in module.state_dict().items()}
    checkpoint = {"epoch": 7, "big": 2**70, wrapper: wrapped, "optimizer": optimizer.state_dict(), "best": (0.5, None)}
    torch.save(checkpoint, tmp_path / "model.pth")
    assert_equals_torch(load_weights(tmp_path / "model.pth"), module.state_dict())


def test_module_prefix_stays_unless_every_name_has_it(tmp_path):
    import torch

    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "model.pth")
    assert list(load_weights(tmp_path / "model.pth")) == ["module.a", "b"]


def test_content_decides_not_the_suffix(tmp_path, torch_bytes, safetensors_bytes):
    (tmp_path / "a.safetensors").write_bytes(torch_bytes)
    (tmp_path / "b.pth").write_bytes(safetensors_bytes)
    assert "0.weight" in load_weights(tmp_path / "a.safetensors")
    assert list(load_weights(tmp_path / "b.pth")) == ["b", "a", "c"]


def test_safetensors_is_mapped_not_read(tmp_path):
    save_safetensors({"w": np.arange(1000, dtype=np.float32)}, tmp_path / "m.safetensors")
    array = load_weights(tmp_path / "m.safetensors")["w"]
    assert not array.flags.writeable and not array.flags.owndata


def test_unaligned_safetensors_is_copied(tmp_path):
    data = np.arange(3, dtype="<f4")
    write_raw(tmp_path / "m", {"w": entry("F32", [3], 0, 12)}, data.tobytes(), pad=3)
    array = load_weights(tmp_path / "m")["w"]
    assert array.flags.aligned
    np.testing.assert_array_equal(array, data)


# --- mappings -----------------------------------------------------------------------------------------------------


def test_mapping_of_array_likes(tmp_path):
    import torch

    shared = np.ones((2, 2), np.float32)
    source = {
        "f64": np.full(3, 0.1),
        "f16": np.ones((2, 3), np.float16).T,
        "big_endian": np.arange(4, dtype=">i4"),
        "list": [1.5, 2.5],
        "scalar": 2,
        "shared": shared,
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "bf16": torch.full((2,), 1.5, dtype=torch.bfloat16),
    }
    arrays = load_weights(source)
    assert arrays is not source and list(arrays) == list(source)
    assert all(isinstance(array, np.ndarray) and array.flags.c_contiguous for array in arrays.values())
    floats = {"f64", "f16", "list", "shared", "parameter", "bf16"}
    assert {name for name in arrays if arrays[name].dtype == np.float32} == floats
    assert arrays["big_endian"].dtype.isnative and arrays["big_endian"].tolist() == [0, 1, 2, 3]
    assert arrays["scalar"].shape == () and arrays["bf16"].tolist() == [1.5, 1.5]
    assert arrays["shared"] is shared, "float32 is not copied"
    np.savez(tmp_path / "m.npz", a=np.ones(2))
    assert load_weights(np.load(tmp_path / "m.npz"))["a"].dtype == np.float32


@pytest.mark.parametrize("value", ["text", None, object(), 1j, [[1], [1, 2]], {"nested": 1}, np.array(["a"]), b"x"])
def test_mapping_of_something_else_is_refused(value):
    refused({"name\n": value}, "name")


def test_sources_of_another_kind_are_refused():
    refused({1: np.ones(1)}, "not a string")
    for source in (None, 3, [np.ones(1)]):
        refused(source, "hub:owner/name")


# --- files that are no weights ------------------------------------------------------------------------------------


def test_paths_that_are_no_weight_file(tmp_path):
    refused(tmp_path / "absent.pth", "no such file")
    refused(tmp_path, "is a folder")
    refused("a\0b", "cannot be read")
    refused(os.devnull, "regular file")
    for content, word in [
        (b"", "empty"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "torch.save(state_dict, path)"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"0123456789abcdef", "not a .pth file"),
        (b"\0" * 100, "not a .pth file"),
        (b"PK\x05\x06" + b"\0" * 18, "not a checkpoint"),
    ]:
        (tmp_path / "x.pth").write_bytes(content)
        refused(tmp_path / "x.pth", "x.pth", word)
    (tmp_path / "x.bin").write_bytes(b"0123456789abcdef")
    refused(tmp_path / "x.bin", "neither")


def test_legacy_checkpoint_is_refused(tmp_path):
    import torch

    torch.save({"a": torch.ones(2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    refused(tmp_path / "old.pth", "re-save it with torch.save")


# --- damaged safetensors ------------------------------------------------------------------------------------------


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def write_raw(path, header, data=b"", pad=0):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * ((pad - len(text)) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


A, B = entry("F32", [2], 0, 8), entry("F32", [2], 8, 16)
A_JSON = json.dumps(A).encode()


@pytest.mark.parametrize(
    "header, size, word",
    [
        ({"a": A, "b": entry("F32", [2], 4, 12)}, 12, "overlaps"),
        ({"a": A, "b": A}, 8, "overlaps"),
        ({"a": A, "b": entry("F32", [2], 12, 20)}, 20, "hole"),
        ({"a": A, "b": B}, 15, "only 15 bytes"),
        ({"a": A}, 12, "4 bytes follow"),
        ({"a": entry("F32", [3], 0, 8)}, 8, "needs 12 bytes"),
        ({"a": entry("F32", [2], 8, 0)}, 8, "hold -8"),
        ({"a": entry("F32", [2], -8, 0)}, 8, "data_offsets"),
        ({"a": entry("F32", [2], 0, 8.0)}, 8, "data_offsets"),
        ({"a": entry("F32", [2], False, 8)}, 8, "data_offsets"),
        ({"a": entry("F32", [-2, -1], 0, 8)}, 8, "shape"),
        ({"a": entry("F32", [True, 2], 0, 8)}, 8, "shape"),
        ({"a": entry("F32", "2", 0, 8)}, 8, "shape"),
        ({"a": entry("F32", [1] * 100 + [2], 0, 8)}, 8, "shape"),
        ({"a": entry("F32", [2**62, 2**62, 0], 0, 0)}, 0, "shape"),
        ({"a": entry("F32", [2**31, 2**31], 0, 2**64)}, 8, "shape"),
        ({"a": entry("F8_E4M3", [8], 0, 8)}, 8, "save it as F32"),
        ({"a": entry(["F32"], [2], 0, 8)}, 8, "dtype"),
        ({"a": 3}, 0, "lacks"),
        ({"a": {"dtype": "F32"}}, 0, "lacks"),
        ({"__metadata__": {"a": 1}}, 0, "__metadata__"),
        ({"__metadata__": [], "a": A}, 8, "__metadata__"),
        ({"\ud800": A}, 8, "valid text"),
        (b'{"a":' + A_JSON + b',"a":' + A_JSON + b"}", 8, "twice"),
        (b'{"a\\n":' + A_JSON + b',"a\\n":' + A_JSON + b"}", 8, "twice"),
        (b'{"a":' * 100_000, 0, "not valid"),
        (b'{"a": {"dtype": "F32", "shape": [' + b"9" * 10_000 + b"]}}", 0, "header"),
        (b"{", 0, "not valid"),
        (b'{"\xff":1}', 0, "not valid"),
    ],
)
def test_damaged_safetensors(tmp_path, header, size, word):
    write_raw(tmp_path / "m.safetensors", header, b"\0" * size)
    refused(tmp_path / "m.safetensors", "m.safetensors", word)


def test_safetensors_with_an_impossible_header_length(tmp_path):
    path = tmp_path / "m.safetensors"
    for length in (2**63, 2**64 - 1, 100):
        path.write_bytes(length.to_bytes(8, "little") + b'{"a":1}')
        refused(path, "only 7 follow")
    with open(path, "wb") as file:  # a sparse file: large in name only
        file.write((200_000_000).to_bytes(8, "little") + b"{")
        file.truncate(300_000_000)
    refused(path, "limit")
    path.write_bytes(bytes(8) + b"{")
    refused(path, "does not begin with")


@quick
@given(data=st.data())
def test_safetensors_truncated_or_flipped(tmp_path, safetensors_bytes, data):
    path = tmp_path / "m.safetensors"
    path.write_bytes(damaged(safetensors_bytes, data))
    try:
        arrays = load_weights(path)
    except InputError as error:
        assert "\n" not in str(error)
    else:  # a flip in a name or in a number cannot be seen: the format has no checksum
        assert len(path.read_bytes()) == len(safetensors_bytes)
        assert all(array.dtype in (np.float32, np.int64, np.uint64) for array in arrays.values())


def damaged(content, data):
    """content cut short, or with a few bits flipped."""
    if data.draw(st.booleans(), label="truncate"):
        return content[: data.draw(st.integers(0, len(content) - 1), label="length")]
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3), label="flips")):
        bit = data.draw(st.integers(0, len(content) * 8 - 1), label="bit")
        content[bit // 8] ^= 1 << bit % 8
    return bytes(content)


# --- damaged and hostile checkpoints ------------------------------------------------------------------------------


@quick
@given(data=st.data())
def test_torch_zip_truncated_or_flipped(tmp_path, torch_bytes, data):
    """The checksums guard the numbers and the pickle: what loads is what was saved."""
    path = tmp_path / "m.pth"
    path.write_bytes(torch_bytes)
    whole = load_weights(path)
    path.write_bytes(damaged(torch_bytes, data))
    try:
        arrays = load_weights(path)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert list(arrays) == list(whole)
        for name in whole:
            np.testing.assert_array_equal(arrays[name], whole[name])


def rewrite(source, target, changes):
    """Copy a checkpoint with entries (named without their folder) replaced, or left out where the content is None."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for item in old.infolist():
            content = changes.get(item.filename.split("/", 1)[1], old.read(item))
            if content is not None:
                new.writestr(item.filename, content)


@quick
@given(data=st.data())
def test_damaged_pickle_behind_a_right_checksum(tmp_path, torch_bytes, data):
    (tmp_path / "m.pth").write_bytes(torch_bytes)
    with zipfile.ZipFile(tmp_path / "m.pth") as archive:
        content = archive.read("model/data.pkl")
    rewrite(tmp_path / "m.pth", tmp_path / "damaged.pth", {"data.pkl": damaged(content, data)})
    try:
        load_weights(tmp_path / "damaged.pth")
    except InputError as error:
        assert "\n" not in str(error)


def test_checkpoint_whose_entries_do_not_fit(tmp_path, torch_bytes):
    source, target = tmp_path / "m.pth", tmp_path / "changed.pth"
    source.write_bytes(torch_bytes)
    for changes, word in [
        ({"data/0": b"\0" * 8}, "has 8 bytes"),
        ({"data/0": None}, "'data/0' is missing"),
        ({"data.pkl": None}, "not a checkpoint"),
        ({"data.pkl": b""}, "data.pkl is damaged"),
        ({"byteorder": b"middle"}, "byteorder"),
        ({"version": b"3", "data.pkl": b"\x80\x02]."}, "holds a list"),
    ]:
        rewrite(source, target, changes)
        refused(target, "changed.pth", word)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            new.writestr(item.filename, old.read(item))
    refused(target, "compressed")
    rewrite(source, target, {})
    with zipfile.ZipFile(target, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("model/data/0", b"")
    refused(target, "two entries")


def test_big_endian_checkpoint(tmp_path):
    import torch

    torch.save({"a": torch.arange(3.0), "b": torch.arange(3)}, tmp_path / "m.pth")
    swapped = {"byteorder": b"big", "data/0": np.arange(3, dtype=">f4").tobytes()}
    swapped["data/1"] = np.arange(3, dtype=">i8").tobytes()
    rewrite(tmp_path / "m.pth", tmp_path / "big.pth", swapped)
    arrays = load_weights(tmp_path / "big.pth")
    assert arrays["a"].tolist() == arrays["b"].tolist() == [0, 1, 2]
    assert arrays["a"].dtype == np.float32 and arrays["b"].dtype.isnative


def checkpoint_of(path, program):
    """A torch zip whose data.pkl is ``program`` and whose one storage holds four float32."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", program)
        archive.writestr("m/data/0", np.arange(4, dtype="<f4").tobytes())


class Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_malicious_pickle_is_not_executed(tmp_path, protocol):
    victim = tmp_path / "victim"
    for call in (Call(os.system, f"touch {victim}"), Call(open, str(victim), "w"), Call(eval, f"open({victim!r},'w')")):
        checkpoint_of(tmp_path / "m.pth", pickle.dumps({"weight": call}, protocol))
        refused(tmp_path / "m.pth", "not tensor data; save model.state_dict() instead")
    assert not victim.exists()


# () -> ((), ()) -> ... sixty times over, in a few hundred bytes: `q` stores the top, `h` pushes it once more.
DOUBLING = b")" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60))


@pytest.mark.parametrize(
    "program, word",
    [
        (b"\x80\x02cposix\nsystem\n.", "posix.system"),
        (b"\x80\x02(iposix\nsystem\n.", "INST"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02Pkey\n.", "PERSID"),
        (b"\x80\x02)\x81.", "NEWOBJ"),
        (b"\x80\x02}.garbage", None),
        (b"\x80\x02h\x05.", "damaged"),
        (b"\x80\x02t.", "damaged"),
        (b"\x80\x02.", "damaged"),
        (b"\x80\x02}", "damaged"),
        (b"\x80\x02})K\x01s.", "damaged"),
        (b"\x80\x02}X\x01\x00\x00\x00aK\x01s.", "'a' is a int"),
        (b"\x80\x02ccollections\nOrderedDict\n(K\x01tR.", "OrderedDict with arguments"),
        (b"\x80\x02K\x01Q.", "persistent id"),
        (b"\x80\x02" + b"(" * 100_000 + b".", "damaged"),
        (b"\x80\x02}" + DOUBLING + b"K\x01s.", "damaged"),  # as a key: hashing would take 2**60 steps
        (b"\x80\x02" + DOUBLING + b"K\x01\x93.", "damaged"),  # as a name: printing would take 2**60 characters
        (b"\x80\x02}X\x01\x00\x00\x00a" + DOUBLING + b"s.", "'a' is a tuple"),
        (b"\x80\x02" + DOUBLING + b"Q.", "persistent id"),
        (b"\x80\x02" + DOUBLING + b".", "holds a tuple"),
        (b"\x80\x02ctorch._utils\n_rebuild_qtensor\n.", "a kind of tensor that is not supported"),
    ],
)
def test_hostile_opcodes(tmp_path, program, word):
    checkpoint_of(tmp_path / "m.pth", program)
    if word is None:  # what follows STOP is no part of the program
        assert load_weights(tmp_path / "m.pth") == {}
    else:
        refused(tmp_path / "m.pth", word)


def tensor_program(offset, shape, strides, count=4):
    """A pickle of {"w": tensor} as torch writes it, with any layout."""

    def number(value):
        data = pickle.encode_long(value)
        return b"\x8a" + bytes([len(data)]) + data

    def text(value):
        return b"X" + len(value).to_bytes(4, "little") + value

    storage = b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu") + number(count) + b"tQ"
    sizes = b"(" + b"".join(map(number, shape)) + b"t(" + b"".join(map(number, strides)) + b"t"
    empty = b"\x89ccollections\nOrderedDict\n)R"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + sizes + empty + b"tR"
    return b"\x80\x02}" + text(b"w") + call + b"s."


def test_layouts_are_checked_before_memory_is_touched(tmp_path):
    path = tmp_path / "m.pth"
    checkpoint_of(path, tensor_program(1, [3], [1]))
    assert load_weights(path)["w"].tolist() == [1, 2, 3]
    checkpoint_of(path, tensor_program(10**9, [2**40, 0], [7, 7]))
    assert load_weights(path)["w"].shape == (2**40, 0)
    for offset, shape, strides, word in [
        (2, [3], [1], "reaches number 4"),
        (0, [2, 2], [3, 1], "reaches number 4"),
        (4, [], [], "reaches number 4"),
        (2**70, [1], [1], "reaches"),
        (0, [2], [2**70], "reaches"),
        (-1, [1], [1], "offset"),
        (3, [2], [-1], "strides"),
        (0, [-1], [1], "shape"),
        (0, [2], [1, 1], "layout"),
        (0, [2**30, 2**30], [0, 0], "shape"),
        (0, [2**40], [0], "repeats its numbers"),
        (0, [1] * 70, [1] * 70, "shape"),
    ]:
        checkpoint_of(path, tensor_program(offset, shape, strides))
        refused(path, word)
    for count in (3, 5, 2**60, -4):
        checkpoint_of(path, tensor_program(0, [2], [1], count))
        refused(path)


def test_whole_models_and_torchscript_are_refused(tmp_path):
    import torch

    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pth")
    refused(tmp_path / "model.pth", "torch.nn.modules.linear.Linear", "save model.state_dict() instead")
    torch.save(torch.ones(2), tmp_path / "tensor.pth")
    refused(tmp_path / "tensor.pth", "holds a tensor")
    torch.save({"a": torch.ones(2), "epoch": 3}, tmp_path / "mixed.pth")
    refused(tmp_path / "mixed.pth", "'epoch' is a int")
    torch.save({"a": torch.ones(2).to_sparse()}, tmp_path / "sparse.pth")
    refused(tmp_path / "sparse.pth", "not supported")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02c__torch__\nNet\n.")
        archive.writestr("m/constants.pkl", b"")
    refused(tmp_path / "script.pt", "TorchScript")


# --- writing ------------------------------------------------------------------------------------------------------


def test_save_safetensors_round_trip(tmp_path):
    from safetensors.numpy import load_file

    path = tmp_path / "m.safetensors"
    arrays = {"t": np.arange(6.0, dtype=np.float32).reshape(2, 3).T, "s": np.float32(2), "i": np.arange(3)}
    arrays |= {"h": np.ones(3, np.float16), "e": np.zeros((0, 2), np.float32), "b": np.array([True, False])}
    save_safetensors(arrays, path, {"source": "a test"})
    assert read_metadata(path) == {"source": "a test"}
    for name, array in load_file(path).items():
        assert array.dtype == arrays[name].dtype
        np.testing.assert_array_equal(array, arrays[name])
    loaded = load_weights(path)
    assert loaded["s"].shape == () and loaded["t"].shape == (3, 2) and loaded["h"].dtype == np.float32
    assert os.listdir(tmp_path) == ["m.safetensors"]
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode), "permissions as of any new file"


def test_saving_over_a_mapped_file_leaves_its_arrays_alone(tmp_path):
    path, link = tmp_path / "m.safetensors", tmp_path / "link"
    save_safetensors({"w": np.ones(5000, np.float32)}, path)
    link.symlink_to(path)
    old = load_weights(link)
    save_safetensors({"w": old["w"][:1] * 2}, link)
    assert old["w"].sum() == 5000 and load_weights(path)["w"].tolist() == [2] and link.is_symlink()
    assert read_metadata(path) == {}


def test_targets_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "absent" / "m", tmp_path, tmp_path / "file" / "m", "a\0b", os.devnull):
        with pytest.raises(InputError, match=r"^[^\n]*; (choose|give)[^\n]*$"):
            save_safetensors({"a": np.ones(1)}, path)
    for tensors, metadata in [({"a": "x"}, None), ({"__metadata__": [1]}, None), ({"a": [1]}, {"a": 1})]:
        with pytest.raises(InputError):
            save_safetensors(tensors, tmp_path / "m", metadata)
    assert os.listdir(tmp_path) == ["file"]


# --- the hub ------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path, safetensors_bytes):
    """huggingface_hub without network: ``files`` maps a file name to the path it has or the exception it raises."""
    module = pytest.importorskip("huggingface_hub")
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes)
    files, calls = {}, []

    def download(repository, name, revision=None, local_files_only=False):
        calls.append((repository, name, revision))
        result = files.get(name, module.utils.EntryNotFoundError("404"))
        if isinstance(result, Exception):
            raise result
        return str(result)

    monkeypatch.setattr(module, "hf_hub_download", download)
    return files, calls, module.utils, tmp_path / "model.safetensors"


def test_hub_names_and_files(hub):
    files, calls, _, path = hub
    files["model.safetensors"] = path
    assert sorted(load_weights("hub:timm/mobilenetv3_small_100.lamb_in1k")) == ["a", "b", "c"]
    assert hub_file("owner/name@refs/pr/1") == str(path)
    assert calls[1] == ("owner/name", "model.safetensors", "refs/pr/1")
    files.clear()
    files["pytorch_model.bin"] = path
    assert hub_file("owner/name") == str(path)


def http_error(kind):
    """An error of huggingface_hub's HTTP kind, whose constructor differs between releases."""
    error = kind.__new__(kind)
    Exception.__init__(error, "401\nRequest ID")
    return error


def test_hub_errors_say_what_to_do(hub, monkeypatch):
    files, _, errors, _ = hub
    refused("hub:owner/name", "neither model.safetensors nor pytorch_model.bin", "pass their path")
    for failure, word in [
        (ConnectionError("no route\nto host"), "by hand"),
        (RuntimeError(""), "RuntimeError"),
        (errors.LocalEntryNotFoundError("offline"), "by hand from https://huggingface.co/owner/name"),
        (http_error(errors.RepositoryNotFoundError), "no such model"),
        (http_error(errors.GatedRepoError), "accept its terms"),
        (http_error(errors.RevisionNotFoundError), "no revision 'main'"),
    ]:
        files["model.safetensors"] = failure
        refused("hub:owner/name@main", "hub:owner/name@main", word)
    for spec in ("", "name", "a/b/c", "a/b@", "../x/y", "a /b", "a/b\n"):
        refused(f"hub:{spec}", "hub:owner/name")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused("hub:owner/name", "pip install huggingface_hub")


# --- the package --------------------------------------------------------------------------------------------------


def test_import_needs_numpy_alone():
    code = "import sys, nanoinfer.weights; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"torch", "safetensors", "huggingface_hub", "nanoinfer.kernels", "nanoinfer.graph"} & set(loaded)
