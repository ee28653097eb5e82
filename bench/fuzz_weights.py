"""Damaged weight files of every format: each gives arrays or an InputError, soon and in little memory.

    python -m bench.fuzz_weights --files 20000 [--seed N]

A file is a sound one of a few kB with some of its bytes flipped, overwritten by extreme numbers, cut, repeated or taken
from another file. The pickle of a zip is also damaged alone, under a right checksum, as is the header of safetensors,
of the right length. What loads has every number read. Prints counts, the largest memory and the slowest file; ends with
exit code 1 if one raised anything else, took more than SECONDS or more than MEGABYTES. It needs Linux, which tells the
memory.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from nanoinfer.weights import load_weights, save_safetensors

from nanoinfer import InputError
from nanoinfer.cli.network import positive

SECONDS, MEGABYTES = 10, 200
SHARDS = ("first.safetensors", "second.safetensors")
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**48, 2**63 - 1, 2**64 - 1)


class Sound(NamedTuple):
    """A sound file: its suffix, its content, and the function that damages a part of it and mends the rest, or None."""

    suffix: str
    content: bytes
    inside: Callable[[bytes, Callable[[bytes], bytes]], bytes] | None = None


class TooSlow(BaseException):
    """A file has taken SECONDS. No Exception, since those that reading a damaged file raises become InputErrors."""


def _too_slow(*_):
    raise TooSlow


class Result(NamedTuple):
    """What became of all files. Times are of the CPU. Memory is the most that one file took, in MB."""

    loaded: int
    refused: Counter[str]
    crashed: dict[int, str]
    slowest: tuple[float, int]
    megabytes: float


def sound_files() -> list[Sound]:
    """One of each format and of each kind of content: dtypes, layouts, wrappers, objects beside the weights."""
    import numpy as np
    import torch

    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    state, base = model.state_dict(), torch.arange(24.0)
    views = {"t": base.view(4, 6).t(), "e": base[:1].expand(5, 5), "n": torch._neg_view(base), "h": base.half()}
    views |= {"b": base.bfloat16(), "d": base.double(), "u": base.to(torch.uint16), "p": torch.nn.Parameter(base)}
    side = {"args": argparse.Namespace(lr=0.1), "rng": np.random.get_state(), "set": {1, 2}, "time": Counter("ab")}
    wrapped = {"state_dict": {f"module.{name}": value for name, value in state.items()}, "model_ema": state, **side}
    sounds = []
    for content in (state, views, wrapped):
        for protocol in (2, 4):
            for new in (True, False):
                file = io.BytesIO()
                torch.save(content, file, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
                sounds.append(Sound("m.pth", file.getvalue(), _in_zip if new else None))
    for arrays in ({name: value.numpy() for name, value in state.items()}, {"h": np.ones((2, 3), np.float16)}):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.safetensors"
            save_safetensors(arrays, path, {"format": "pt"})
            sounds.append(Sound("m.safetensors", path.read_bytes(), _in_header))
    index = {"metadata": {"total_size": 9}, "weight_map": {"0.weight": SHARDS[0], "h": SHARDS[1]}}
    return [*sounds, Sound("m.index.json", json.dumps(index).encode())]


def _in_zip(content: bytes, damage: Callable[[bytes], bytes]) -> bytes:
    """The zip with its pickle damaged, and all checksums right."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        for item in old.infolist():
            data = old.read(item)
            new.writestr(item.filename, damage(data) if item.filename.endswith("data.pkl") else data)
    return file.getvalue()


def _in_header(content: bytes, damage: Callable[[bytes], bytes]) -> bytes:
    """The safetensors file with its header damaged, and the length of it right."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = damage(content[8:end])
    return len(header).to_bytes(8, "little") + header + content[end:]


def damaged(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """`content` after one to four random changes; some of them take bytes of `other`."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at, length = rng.randrange(len(data) + 1), min(rng.randint(1, 16) ** 2, len(data))
        change = rng.randrange(7)
        if change == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif change == 1:
            size = rng.choice((1, 2, 4, 8))
            data[at : at + size] = (rng.choice(_EXTREMES) % 256**size).to_bytes(size, rng.choice(("little", "big")))
        elif change == 2:
            del data[at : at + length]
        elif change == 3:
            data[at:at] = data[at : at + length] * rng.choice((1, 1, 2, 50))
        elif change == 4:
            start = rng.randrange(len(other))
            data[at : at + length] = other[start : start + length]
        elif change == 5:
            data[at : at + length] = rng.randbytes(length)
        elif rng.random() < 0.3:
            del data[at:]
    return bytes(data)


def run(files: int, seed: int, folder: Path) -> Result:
    """Read `files` damaged files, which are written into `folder` one after the other."""
    sounds, loaded, refused, crashed, slowest = sound_files(), 0, Counter(), {}, (0.0, -1)
    largest = 0.0
    signal.signal(signal.SIGPROF, _too_slow)
    for name, shard in zip(SHARDS, sounds[-3:-1], strict=True):
        (folder / name).write_bytes(shard.content)
    for number in range(files):
        rng = random.Random(seed * 1_000_003 + number)
        sound, other = rng.choice(sounds), rng.choice(sounds)

        def damage(data: bytes, other=other, rng=rng) -> bytes:
            return damaged(data, other.content, rng)

        content = sound.inside(sound.content, damage) if sound.inside and rng.random() < 0.5 else damage(sound.content)
        path = folder / f"{number % 2}{sound.suffix}"  # not the name of the file before, which may still be mapped
        path.write_bytes(content)
        source = content if rng.random() < 0.1 else path
        start, memory = time.process_time(), _reset_peak()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            for array in load_weights(source).values():
                array.tobytes()
            loaded += 1
        except InputError as error:
            message = str(error)
            if "\n" in message or not message.isprintable() or len(message) > 1000:
                crashed[number] = f"not a printable line: {message!r}"
            refused[sound.suffix] += 1
        except (Exception, TooSlow) as error:
            crashed[number] = repr(error)
        signal.setitimer(signal.ITIMER_PROF, 0)
        slowest = max(slowest, (time.process_time() - start, number))
        largest = max(largest, _memory("VmHWM") - memory)
        path.unlink()
    return Result(loaded, refused, crashed, slowest, largest)


def _memory(field: str) -> float:
    """A field of this process's status in MB: VmRSS, its memory now, or VmHWM, the most since `_reset_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise ValueError(field)


def _reset_peak() -> float:
    """Forget the most memory that the process has had; returns what it has now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def main() -> int:
    parser = argparse.ArgumentParser(description="Read damaged weight files of every format.")
    parser.add_argument("--files", type=positive, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(arguments.files, arguments.seed, Path(folder))
    print(f"{arguments.files:,} files: {result.loaded:,} loaded, {result.refused.total():,} refused")
    for suffix, count in sorted(result.refused.items()):
        print(f"  {count:,} of {suffix} refused")
    print(f"largest memory of one file: {result.megabytes:.1f} MB")
    print(f"slowest: file {result.slowest[1]}, {result.slowest[0]:.3f} s")
    for number, what in list(result.crashed.items())[:20]:
        print(f"file {number} crashed: {what}", file=sys.stderr)
    return int(bool(result.crashed) or result.megabytes > MEGABYTES)


if __name__ == "__main__":
    sys.exit(main())
