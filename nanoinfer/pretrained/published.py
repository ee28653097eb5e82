"""The weights that timm and torchvision publish for our networks: where they lie, and how their images are prepared.

`data/published_weights.csv` has a row for each, network by network, and of one network in its
library's order, the default first. `python -m bench.published_weights` makes it from the two libraries.
"""

from __future__ import annotations

import os
import re
from functools import cache
from typing import NamedTuple

from ..data import FOLDER
from ..preprocessing import Preprocessing

TABLE = FOLDER / "published_weights.csv"
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")


class Published(NamedTuple):
    """One published file of weights; "" stands for what there is not.

    `hub` is a repository of the Hugging Face hub, `url` a file. `top1` and `top5` are percent of the ImageNet
    validation set as its publisher measured them with this preprocessing. `former` are names that timm once gave to
    the pair of architecture and tag, separated by spaces.
    """

    architecture: str
    tag: str
    library: str
    hub: str
    url: str
    classes: int
    resize: int
    crop: int
    crop_mode: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    top1: str
    top5: str
    former: str

    @property
    def name(self) -> str:
        """ "resnet50.a1_in1k", as timm writes it."""
        return f"{self.architecture}.{self.tag}"

    @property
    def where(self) -> str:
        """What `weights` takes, or the address of the file to download first."""
        return f"hub:{self.hub}" if self.hub else self.url

    @property
    def stem(self) -> str:
        """The name of the file at `url`, without its suffix."""
        return os.path.splitext(os.path.basename(self.url))[0] or self.name

    def preprocessing(self) -> Preprocessing:
        """How images are prepared for these weights."""
        return Preprocessing(
            self.resize,
            (self.crop, self.crop),
            self.interpolation,
            self.mean,
            self.std,
            self.crop_mode,
            f"{self.library}'s {self.name}",
        )


@cache
def published() -> tuple[Published, ...]:
    """Every row of the table."""
    header, *lines = TABLE.read_text(encoding="utf-8").splitlines()
    if header.split(",") != list(Published._fields):
        raise ValueError(f"{TABLE} has other columns than Published")
    return tuple(map(_row, lines))


def _row(line: str) -> Published:
    row = Published(*line.split(","))
    numbers = {name: int(getattr(row, name)) for name in ("classes", "resize", "crop")}
    return row._replace(**numbers, **{name: tuple(map(float, getattr(row, name).split())) for name in ("mean", "std")})


def tags(architecture: str) -> list[Published]:
    """The rows of one architecture."""
    return [row for row in published() if row.architecture == architecture]


def of_tag(architecture: str, tag: str) -> Published | None:
    """The row of "architecture.tag"."""
    return next((row for row in tags(architecture) if row.tag == tag), None)


def of_hub(repository: str) -> Published | None:
    """The row of a repository of the hub, "owner/name" or "owner/name@revision"."""
    repository = repository.partition("@")[0]
    return next((row for row in published() if row.hub and row.hub == repository), None)


def of_file(path: str, architecture: str) -> Published | None:
    """The row of a file by its name: that of its address with any suffix, or "architecture.tag".

    Where several rows have it, this architecture's come first, and torchvision's before timm's, which lists some of
    torchvision's files with a preprocessing of its own.
    """
    name = os.path.basename(path.rstrip("/\\"))
    for suffix in (*WEIGHT_SUFFIXES, ".pth"):  # "model.pth.tar" has two
        name = name.removesuffix(suffix)
    name = re.sub(r" ?\(\d+\)$", "", name)  # a browser's second download
    rows = [row for row in published() if name in (row.stem, row.name)]
    order = [(row.architecture != architecture, row.library != "torchvision") for row in rows]
    return rows[order.index(min(order))] if rows else None


def of_former(name: str) -> Published | None:
    """The row of a name that timm once had for an architecture with a tag, such as "tv_resnet50"."""
    return next((row for row in published() if name in row.former.split()), None)


def architecture_of(name: str) -> str:
    """The architecture that a name of timm's means: without its tag, and by its new name if it has a former one."""
    name = name.removeprefix("timm/").partition(".")[0].partition("@")[0]
    row = of_former(name)
    return row.architecture if row else name
