"""Images of every kind that people have, and some that are broken."""

import numpy as np
from PIL import Image

BROKEN_EVERY = 200
ORIENTATION = 0x0112


def _picture(seed, mode="RGB"):
    """A picture of noise over a gradient, of a size of its own."""
    random = np.random.default_rng(seed)
    height, width = (int(side) for side in random.integers(24, 140, 2))
    y, x = np.mgrid[:height, :width]
    base = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], -1)
    pixels = np.clip(base + random.integers(-20, 20, base.shape), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def _turned(path, seed):
    exif = Image.Exif()
    exif[ORIENTATION] = 2 + seed % 7
    _picture(seed).save(path, exif=exif)


def _deep(path, seed):
    values = np.asarray(_picture(seed, "L")).astype(np.uint16) * 257
    Image.fromarray(values).save(path)


def _animated(path, seed):
    _picture(seed).save(path, save_all=True, append_images=[_picture(seed).rotate(180)])


def _palette(path, seed):
    _picture(seed).quantize(16).save(path)


def _saved(mode, **options):
    return lambda path, seed: _picture(seed, mode).save(path, **options)


KINDS = (
    ("jpg", _saved("RGB")),
    ("progressive.jpg", _saved("RGB", progressive=True)),
    ("gray.jpeg", _saved("L")),
    ("cmyk.jpg", _saved("CMYK")),
    ("turned.jpg", _turned),
    ("png", _saved("RGB")),
    ("alpha.png", _saved("RGBA")),
    ("palette.png", _palette),
    ("deep.png", _deep),
    ("bits.png", _saved("1")),
    ("webp", _saved("RGB")),
    ("gif", _saved("P")),
    ("animated.gif", _animated),
    ("bmp", _saved("RGB")),
    ("tif", _saved("RGB", compression="tiff_lzw")),
)


def write_images(folder, count, broken_every=BROKEN_EVERY):
    """`count` files of all kinds in folders of a hundred; of every `broken_every` one is cut, empty or no image."""
    for number in range(count):
        kind, save = KINDS[number % len(KINDS)]
        path = folder / f"{number // 100:03}" / f"{number:05}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, number)
        if number % broken_every == broken_every // 2:
            _break(path, number // broken_every)


def _break(path, number):
    content = path.read_bytes()
    path.write_bytes((content[: len(content) // 3], b"", b"<html>not found</html>")[number % 3])
