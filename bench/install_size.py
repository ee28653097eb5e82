"""How large engines are when they are installed: pip puts each into a folder of its own, with all that it requires.

    python -m bench.install_size [WHEEL]

WHEEL is one of nanoinfer's; without one it is built first, which takes some minutes. Prints the MiB of all files and
their largest packages. pip has to reach an index.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
WITHOUT_COMPILER = ("numpy", "safetensors", "pillow", "rich")
ENGINES = ("onnxruntime", "openvino")


def install(folder: Path, *packages: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "-q", "--only-binary=:all:", "--no-compile", "--target", folder]
    subprocess.run([*command, *packages], check=True)


def size(path: Path) -> int:
    """Bytes of a file or of all files below a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description="installed sizes of nanoinfer and of other engines")
    parser.add_argument("wheel", nargs="?", help="a wheel of nanoinfer")
    wheel = parser.parse_args().wheel
    with TemporaryDirectory() as scratch:
        if wheel is None:
            subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", scratch, ROOT], check=True)
            [wheel] = map(str, Path(scratch).glob("*.whl"))
        plain = Path(scratch, "nanoinfer without its compiler")
        install(plain, *WITHOUT_COMPILER)
        install(plain, "--no-deps", wheel)
        install(Path(scratch, "nanoinfer"), wheel)
        for engine in ENGINES:
            install(Path(scratch, engine), engine)
        print(f"{'':32} {'MiB':>6}  largest")
        for name in (plain.name, "nanoinfer", *ENGINES):
            parts = sorted(((size(path), path.name) for path in Path(scratch, name).iterdir()), reverse=True)
            largest = ", ".join(f"{part} {count / 2**20:.0f}" for count, part in parts[:5])
            print(f"{name:32} {sum(count for count, _ in parts) / 2**20:6.0f}  {largest}")


if __name__ == "__main__":
    main()
