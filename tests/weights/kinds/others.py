"""Kinds of sources other than files of torch.save, as docs/checkpoints.md lists them; see torch_saved."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile

import numpy as np
import safetensors.torch
import torch
from torch.optim.swa_utils import AveragedModel

from tests.weights.files import every_dtype, write_safetensors
from tests.weights.kinds.torch_saved import network, saved, state


def safe(folder, tensors=None, name="model.safetensors"):
    """The path of a file that the safetensors library has written."""
    safetensors.torch.save_file(tensors or state(), folder / name, {"format": "pt"})
    return folder / name


def folder_with(folder, *names):
    """The folder after files of a name each have been made in it, of whatever content."""
    for name in names:
        (folder / name).write_bytes(b"not weights")
    return folder


def safetensors_again(folder):
    averaged = AveragedModel(network()).state_dict()
    return [safe(folder, state(prefix="module.")), safe(folder, averaged, "averaged.safetensors")], state()


def unaligned(folder):
    entry = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}
    write_safetensors(folder / "m.safetensors", {"w": entry}, np.arange(3, dtype="<f4").tobytes(), pad=3)
    return [folder / "m.safetensors"], {"w": torch.arange(3.0)}


def sharded(write, name, index):
    """The function of a kind: shards with an index, as a folder and by the index."""

    def files(folder):
        tensors, weight_map = state(), {}
        for number, part in enumerate((list(tensors)[:4], list(tensors)[4:]), 1):
            shard = name.format(number)
            write(folder, {key: tensors[key] for key in part}, shard)
            weight_map |= dict.fromkeys(part, shard)
        (folder / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
        return [folder, folder / index, str(folder) + "/"], tensors

    return files


safetensors_shards = sharded(safe, "model-{:05}-of-00002.safetensors", "model.safetensors.index.json")
torch_shards = sharded(saved, "pytorch_model-{:05}-of-00002.bin", "pytorch_model.bin.index.json")


def one_shard(folder):
    tensors = safetensors_shards(folder)[1]
    return [folder / "model-00001-of-00002.safetensors"], {name: tensors[name] for name in list(tensors)[:4]}


def missing_shard(folder):
    safetensors_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    return [folder, folder / "model.safetensors.index.json"], None


def trainer_folder(folder):
    safe(folder)
    for name in ("training_args.bin", "optimizer.pt", "rng_state.pth"):
        saved(folder, {"a": 1}, name)
    return [folder], state()


def folder_of_one(folder):
    saved(folder, state(), "epoch=9.ckpt")
    return [folder_with(folder, "README.md", "optimizer.bin")], state()


def wrong_suffix(folder):
    safe(folder, name="a.pth")
    return [folder / "a.pth", saved(folder, state(), "b.safetensors"), saved(folder, state(), "c")], state()


def bytes_and_objects(folder):
    path = saved(folder, state())
    content = path.read_bytes()
    (folder / "m.gz").write_bytes(gzip.compress(content))
    with zipfile.ZipFile(folder / "m.zip", "w") as archive:
        archive.writestr("m.pth", content)
    member = zipfile.ZipFile(folder / "m.zip").open("m.pth")
    objects = [open(path, "rb"), io.BytesIO(content), gzip.open(folder / "m.gz"), member, open(path, "rb", buffering=0)]
    return [content, bytearray(content), memoryview(content), safe(folder).read_bytes(), *objects], state()


def mappings(folder):
    arrays = {name: value.numpy() for name, value in state().items()}
    np.savez(folder / "m.npz", **arrays)
    negative = {name: torch._neg_view(-value) for name, value in state().items()}
    return [arrays, state(), state(prefix="module."), negative, np.load(folder / "m.npz")], state()


def file_with_a_mark(folder):
    return [saved(folder, state(), "run#3.pth"), f"{saved(folder, {'ema': state()}, 'run#4.pth')}#ema"], state()


def written(name, content):
    """The function of a kind that is refused: a file of this content."""

    def files(folder):
        (folder / name).write_bytes(content)
        return [folder / name], None

    return files


def plain_pickles(folder):
    arrays = {name: value.numpy() for name, value in state().items()}
    return [written(f"{p}.pkl", pickle.dumps(arrays, p))(folder)[0][0] for p in (2, 4, 5)], None


def tar_checkpoint(folder):
    with tarfile.open(folder / "m.pth", "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            archive.addfile(tarfile.TarInfo(name))
    return [folder / "m.pth"], None


def archive_of(name):
    """The function of a kind that is refused: a zip with a file of this name in it."""

    def files(folder):
        with zipfile.ZipFile(folder / "m.zip", "w") as archive:
            archive.writestr(name, b"content")
        return [folder / "m.zip"], None

    return files


def npz(folder):
    np.savez(folder / "m.npz", w=np.ones(2))
    return [folder / "m.npz"], None


def cut_safetensors(folder):
    content = safe(folder).read_bytes()
    (folder / "cut.safetensors").write_bytes(content[:-4])
    return [folder / "cut.safetensors"], None


def float8(folder):
    return [safe(folder, {"w": torch.ones(2).to(torch.float8_e4m3fn)})], None


def several_files(folder):
    saved(folder, state(), "last.ckpt")
    return [saved(folder, state(), "best.ckpt").parent], None


KINDS = {
    "safetensors of any dtype": lambda folder: ([safe(folder, every_dtype())], every_dtype()),
    "safetensors with a prefix, or of an `AveragedModel`": safetensors_again,
    "safetensors whose numbers are not aligned": unaligned,
    "safetensors in shards: their folder or index": safetensors_shards,
    "`.bin` in shards: their folder or index": torch_shards,
    "one of several shards": one_shard,
    "a folder with `model.safetensors`, as trainers of HF transformers write it": trainer_folder,
    "a folder with `pytorch_model.bin`": lambda folder: ([saved(folder, state(), "pytorch_model.bin").parent], state()),
    "a folder with one weight file of another name": folder_of_one,
    "a file with the suffix of another format": wrong_suffix,
    "a file with `#` in its name": file_with_a_mark,
    "bytes, and open files: plain ones, of `gzip`, in a zip": bytes_and_objects,
    "a mapping of NumPy arrays or torch tensors, an open `.npz`": mappings,
    "an index, one of whose shards is missing": missing_shard,
    "safetensors that was cut short": cut_safetensors,
    "safetensors with float8": float8,
    "`#name` behind safetensors": lambda folder: ([f"{safe(folder)}#ema"], None),
    "a folder with several weight files": several_files,
    "a folder without weights": lambda folder: ([folder_with(folder, "README.md")], None),
    "a distributed checkpoint of torch": lambda folder: ([folder_with(folder, ".metadata", "__0_0.distcp")], None),
    "a SavedModel of TensorFlow": lambda folder: ([folder_with(folder, "saved_model.pb")], None),
    "a checkpoint that was unpacked": lambda folder: ([folder_with(folder, "data.pkl", "version")], None),
    "a plain pickle of NumPy arrays": plain_pickles,
    "a plain pickle of other objects": written("m.pkl", pickle.dumps({"weights": [1.0, 2.0]})),
    "a tar archive, as torch before 0.2 wrote": tar_checkpoint,
    "an `.npz` file": npz,
    "an `.npy` file": written("m.npy", b"\x93NUMPY\x01\x00"),
    "a zip with a `.pth` in it": archive_of("model/last.pth"),
    "a `.keras` file": archive_of("model.weights.h5"),
    "another zip": archive_of("photo.png"),
    "HDF5": written("m.h5", b"\x89HDF\r\n\x1a\n"),
    "ONNX": written("m.onnx", b"\x08\x08\x12\x07pytorch"),
    "TensorFlow Lite": written("m.tflite", b"\x1c\x00\x00\x00TFL3"),
    "a TensorFlow graph": written("m.pb", b"\n\x0b\n\x05input"),
    "Flax": written("m.msgpack", b"\x81\xa6params"),
    "GGUF": written("m.gguf", b"GGUF\x03\x00\x00\x00"),
    "gzip": written("m.pth.gz", gzip.compress(b"weights")),
    "bzip2": written("m.pth.bz2", bz2.compress(b"weights")),
    "xz": written("m.pth.xz", lzma.compress(b"weights")),
    "a pointer of Git LFS": written("m.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "a web page": written("m.pth", b"<!DOCTYPE html><html>"),
    "an image": written("m.pth", b"\x89PNG\r\n\x1a\n"),
    "a `config.json`": written("config.json", b'{"architecture": "resnet50"}'),
    "an empty file": written("m.pth", b""),
    "other text": written("m.pth", b"a text about weights\n"),
    "a web address": lambda folder: (["https://download.pytorch.org/models/mobilenet_v2-b0353104.pth"], None),
    "a torch module": lambda folder: ([network()], None),
    "a file that is not there": lambda folder: ([folder / "absent.pth"], None),
}
