"""Kinds of files that torch writes, as docs/checkpoints.md lists them.

KINDS holds, by a row's first column, a function of an empty folder that makes such files. It returns their sources, all
of the same outcome, and what they hold: {name: torch tensor}, or None where they are refused.
"""

import zipfile

import numpy as np
import torch

from tests.weights.files import every_dtype, rewrite_checkpoint
from tests.weights.torch_files.pickles import dict_of, legacy, storage, tensor, text


def network(seed=0):
    """A small network with parameters, running statistics and a counter."""
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))


def state(seed=0, prefix=""):
    """Its state dict, with a prefix before all names."""
    return {prefix + name: value for name, value in network(seed).state_dict().items()}


def saved(folder, content, name="model.pth", **options):
    """The path of a file that torch.save has written."""
    torch.save(content, folder / name, **options)
    return folder / name


def of(make):
    """The function of a kind that torch.save writes: `make` returns what is saved, and the weights in it."""

    def files(folder):
        content, expected = make()
        new = saved(folder, content)
        old = saved(folder, content, "legacy.pth", _use_new_zipfile_serialization=False)
        return [new, old], expected

    return files


def plain():
    return network().state_dict(), state()


def protocols(folder):
    return [saved(folder, state(), f"{p}.pth", pickle_protocol=p) for p in (2, 3, 4, 5)], state()


def legacy_file(folder, program, *numbers):
    """The path of a legacy file of one storage of float32, under the key "7"."""
    (folder / "m.pth").write_bytes(legacy(program, {"7": np.array(numbers, "f4")}))
    return folder / "m.pth"


def python2(folder):
    """An OrderedDict had its items as pairs, text was bytes, and a tensor came from _rebuild_tensor."""
    value = tensor(storage("7", 4, part=(), python2=True), 0, [2, 2], [2, 1], function="_rebuild_tensor")
    program = b"\x80\x02ccollections\nOrderedDict\n((" + b"(" + text("w", True) + value + b"lltR."
    return [legacy_file(folder, program, 0, 1, 2, 3)], {"w": torch.arange(4.0).reshape(2, 2)}


def parts_of_storages(folder):
    parts = {"a": ("8", 1, 2), "b": ("9", 4, 2), "c": ()}
    views = {name: tensor(storage("7", 6, part=part), 0, [2], [1]) for name, part in parts.items()}
    expected = {"a": torch.tensor([1.0, 2]), "b": torch.tensor([4.0, 5]), "c": torch.tensor([0.0, 1])}
    return [legacy_file(folder, dict_of(**views), 0, 1, 2, 3, 4, 5)], expected


def on_a_gpu(folder):
    value = tensor(storage("7", 3, device="cuda:1", part=()), 0, [3], [1])
    return [legacy_file(folder, dict_of(w=value), 0, 1, 2)], {"w": torch.arange(3.0)}


def big_endian(folder):
    swapped = {
        "byteorder": b"big",
        "data/0": np.arange(3, dtype=">f4").tobytes(),
        "data/1": np.arange(3, dtype=">i8").tobytes(),
    }
    content = {"a": torch.arange(3.0), "b": torch.arange(3)}
    rewrite_checkpoint(saved(folder, content), folder / "big.pth", swapped)
    return [folder / "big.pth"], content


def without_checksums(folder):
    torch.serialization.set_crc32_options(False)
    try:
        return [saved(folder, state())], state()
    finally:
        torch.serialization.set_crc32_options(True)


def zip64(folder):
    with zipfile.ZipFile(saved(folder, state())) as old, zipfile.ZipFile(folder / "zip64.pth", "w") as new:
        for item in old.infolist():
            with new.open(zipfile.ZipInfo(item.filename), "w", force_zip64=True) as file:
                file.write(old.read(item))
    return [folder / "zip64.pth"], state()


def packed_again(folder):
    """The names move the numbers to addresses that no float32 may have."""
    rewrite_checkpoint(saved(folder, state()), folder / "again.pth", {})
    return [folder / "again.pth"], state()


def layouts():
    base = torch.arange(48.0)
    tensors = {"base": base, "offset": base[5:17].view(3, 4), "transposed": base.view(6, 8).t(), "steps": base[1::3]}
    tensors["expanded"] = torch.tensor([2.0]).expand(3, 4)
    tensors["channels_last"] = torch.arange(60.0).view(1, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    return tensors, tensors


def negative():
    tensors = {"w": torch._neg_view(torch.arange(3.0)), "t": torch._neg_view(torch.arange(6.0).view(2, 3).t())}
    return tensors, {name: tensor.resolve_neg() for name, tensor in tensors.items()}


def parameters():
    marked, parameter = torch.ones(2), torch.nn.Parameter(torch.ones(3))
    marked.note, parameter.note = "a tensor with an attribute", "another"
    tensors = {"marked": marked, "parameter": parameter, "plain": torch.nn.Parameter(torch.ones(4))}
    return tensors, tensors


def unsigned(folder):
    tensors = {f"u{bits}": torch.arange(3).to(getattr(torch, f"uint{bits}")) for bits in (16, 32, 64)}
    return [saved(folder, tensors)], tensors


def torchscript(folder):
    torch.jit.script(network().eval()).save(folder / "model.pt")
    return [folder / "model.pt"], None


def exported(folder):
    program = torch.export.export(network().eval()[:1], (torch.ones(1, 3, 4, 4),))
    torch.export.save(program, folder / "model.pt2")
    return [folder / "model.pt2"], None


def packaged(folder):
    with torch.package.PackageExporter(folder / "model.pt") as package:
        package.extern("torch.**")
        package.save_pickle("model", "model.pkl", network())
    return [folder / "model.pt"], None


def other_dtypes(folder):
    low = {"w": torch.ones(2).to(torch.float8_e4m3fn)}
    return [saved(folder, {"w": torch.ones(2) * 1j}), saved(folder, low, "float8.pth")], None


def other_layouts(folder):
    quantized = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    kinds = {"sparse": torch.eye(2).to_sparse(), "csr": torch.eye(2).to_sparse_csr(), "quantized": quantized}
    return [saved(folder, {"w": value, "b": torch.ones(1)}, f"{name}.pth") for name, value in kinds.items()], None


def compressed(folder):
    rewrite_checkpoint(saved(folder, state()), folder / "new.pth", {}, zipfile.ZIP_DEFLATED)
    return [folder / "new.pth"], None


def cut_short(folder):
    content = saved(folder, state()).read_bytes()
    (folder / "cut.pth").write_bytes(content[: len(content) // 2])
    return [folder / "cut.pth"], None


def flipped_bit(folder):
    content = bytearray(saved(folder, {"w": torch.full((1000,), 0.7)}).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "m.pth").write_bytes(content)
    return [folder / "m.pth"], None


KINDS = {
    "`torch.save(model.state_dict(), path)`, of any release": of(plain),
    "the same, with any pickle protocol": protocols,
    "the same, in float16, bfloat16, float64 or whole numbers": of(lambda: (every_dtype(), every_dtype())),
    "the same, with uint16, uint32 or uint64": unsigned,
    "the same, by Python 2 and torch before 0.4": python2,
    "a legacy file with parts of storages": parts_of_storages,
    "tensors saved on a GPU": on_a_gpu,
    "a zip by a big-endian machine": big_endian,
    "a zip without checksums": without_checksums,
    "a zip in the format of 4 GB and more": zip64,
    "a zip that was packed again without compression": packed_again,
    "tensors that are views: channels_last, transposed, expanded": of(layouts),
    "tensors with the negative bit": of(negative),
    "parameters, and tensors with attributes": of(parameters),
    "a single tensor": of(lambda: (torch.ones(2), None)),
    "TorchScript": torchscript,
    "a program of `torch.export`": exported,
    "an archive of `torch.package`": packaged,
    "sparse or quantized tensors": other_layouts,
    "complex or float8 tensors": other_dtypes,
    "a compressed zip": compressed,
    "a zip that was cut short": cut_short,
    "a zip with a flipped bit": flipped_bit,
}
