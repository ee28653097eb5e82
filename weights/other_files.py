"""Files that are given by mistake: what each is, by its first bytes or its suffix, and the next step."""

from __future__ import annotations

import os

_OTHER_FRAMEWORK = "save the weights as .safetensors, or pass a mapping {name: array}"

# (offset, bytes there) -> the problem and the next step.
_BY_CONTENT = (
    (
        *(0, b"version https://git-lfs"),
        "is a Git LFS pointer, not the weights; run 'git lfs pull' or download the file itself",
    ),
    (0, b"<", "is a web page or XML, not weights; download the file itself (the 'raw' or 'download' link)"),
    (0, b"\x93NUMPY", "is one NumPy array without a name; pass a mapping {name: array} instead"),
    (0, b"\x89HDF", f"is an HDF5 file; {_OTHER_FRAMEWORK}"),
    (0, b"GGUF", f"is a GGUF file; {_OTHER_FRAMEWORK}"),
    (4, b"TFL3", f"is a TensorFlow Lite model; {_OTHER_FRAMEWORK}"),
    (0, b"\x1f\x8b", "is gzip-compressed; decompress it first"),
    (0, b"BZh", "is bzip2-compressed; decompress it first"),
    (0, b"\xfd7zXZ", "is xz-compressed; decompress it first"),
    (0, b"\x28\xb5\x2f\xfd", "is zstd-compressed; decompress it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "is a 7z archive; unpack it first"),
    (0, b"Rar!", "is a RAR archive; unpack it first"),
    (0, b"\x89PNG", "is an image, not weights; give a .safetensors or .pth file"),
    (0, b"\xff\xd8\xff", "is an image, not weights; give a .safetensors or .pth file"),
    (0, b"%PDF", "is a PDF, not weights; give a .safetensors or .pth file"),
    (0, b"#!", "is a script, not weights; give the .safetensors or .pth file that it writes"),
    (257, b"ustar", "is a tar archive, or a checkpoint of torch before 0.2; unpack it, or save it again with torch"),
)
_BY_SUFFIX = {
    ".onnx": f"is an ONNX model; {_OTHER_FRAMEWORK}",
    ".pb": f"is a TensorFlow graph; {_OTHER_FRAMEWORK}",
    ".msgpack": f"is a Flax checkpoint; {_OTHER_FRAMEWORK}",
    ".params": f"is an MXNet file; {_OTHER_FRAMEWORK}",
    ".caffemodel": f"is a Caffe model; {_OTHER_FRAMEWORK}",
}


def what_it_is(path: str, start: bytes) -> str:
    """The problem and the next step for a file called `path` that begins with `start`, in no format of ours."""
    for offset, magic, advice in _BY_CONTENT:
        if start[offset:].startswith(magic):
            return advice
    suffix = os.path.splitext(path)[1].lower()
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    if suffix in (".safetensors", ".pth", ".pt", ".bin", ".ckpt"):
        return f"is not a {suffix} file inside, or its beginning is damaged; download or save it again"
    return "is neither a safetensors file nor a torch checkpoint; give a .safetensors, .pth or .pt file"
