"""Write the table of published weights: `python -m bench.published_weights [--results results-imagenet.csv]`.

timm's rows come from its pretrained configurations, torchvision's from its weight enums. torchvision states its
accuracies; timm keeps its own in a file of its repository, results/results-imagenet.csv: a row's are those measured at
the size, crop and interpolation of its preprocessing. Without that file, accuracies stay as the table has them.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
from pathlib import Path

from nanoinfer.architectures import MODELS
from nanoinfer.pretrained.published import TABLE, Published, published
from nanoinfer.reports.torch_reference import import_torchvision

Accuracies = dict[tuple[str, str, str, str], tuple[str, str]]  # (name, size, crop_pct, interpolation) -> top1, top5


def timm_rows(accuracies: Accuracies) -> list[Published]:
    """A row for each tag of timm that has weights."""
    import_torchvision()
    import timm
    from timm.models import _registry

    former = {}
    for old, new in _registry._deprecated_models.items():
        former.setdefault(new, []).append(old)
    rows = []
    for name in MODELS:
        if not timm.is_model(name):
            continue
        configs = _registry._model_default_cfgs[name]
        for tag in configs.tags:
            config = configs.cfgs[tag]
            if not config.has_weights:
                continue
            _, height, width = config.input_size
            assert height == width, (name, tag)
            full = f"{name}.{tag}"
            measured = accuracies.get((full, str(width), f"{config.crop_pct:.3f}", config.interpolation), ("", ""))
            rows.append(
                Published(
                    architecture=name,
                    tag=tag,
                    library="timm",
                    hub=f"timm/{full}" if config.hf_hub_id == "timm/" else config.hf_hub_id or "",
                    url="" if config.custom_load else config.url or "",  # custom: arrays of another library
                    classes=config.num_classes,
                    resize=math.floor(width / config.crop_pct),
                    crop=width,
                    crop_mode=config.crop_mode,
                    interpolation=config.interpolation,
                    mean=config.mean,
                    std=config.std,
                    top1=measured[0],
                    top5=measured[1],
                    former=" ".join(former.get(full, ())),
                )
            )
    return rows


def torchvision_rows() -> list[Published]:
    """A row for each weight enum of torchvision."""
    models = import_torchvision().models
    rows = []
    for name in MODELS:
        if name not in models.list_models(module=models):
            continue
        enum = models.get_model_weights(name)
        for weights in sorted(enum, key=lambda item: item != enum.DEFAULT):
            transforms = weights.transforms()
            (resize,), (crop,) = transforms.resize_size, transforms.crop_size
            accuracy = weights.meta["_metrics"]["ImageNet-1K"]
            rows.append(
                Published(
                    architecture=name,
                    tag=weights.name,
                    library="torchvision",
                    hub="",
                    url=weights.url,
                    classes=len(weights.meta["categories"]),
                    resize=resize,
                    crop=crop,
                    crop_mode="center",
                    interpolation=transforms.interpolation.value,
                    mean=tuple(transforms.mean),
                    std=tuple(transforms.std),
                    top1=f"{accuracy['acc@1']:.3f}",
                    top5=f"{accuracy['acc@5']:.3f}",
                    former="",
                )
            )
    return rows


def rows(accuracies: Accuracies) -> list[Published]:
    """All rows, in the order of MODELS; of one network timm's, if it has any, come first."""
    order = list(MODELS)
    return sorted([*timm_rows(accuracies), *torchvision_rows()], key=lambda row: order.index(row.architecture))


def as_csv(rows: list[Published]) -> str:
    """The text of the table; no cell of it needs quotes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONE)
    writer.writerow(Published._fields)
    for row in rows:
        writer.writerow(" ".join(map(str, cell)) if isinstance(cell, tuple) else cell for cell in row)
    return text.getvalue()


def read_accuracies(path: str | None) -> Accuracies:
    """From timm's file; without one, those that the table has."""
    if path is None:
        known = published() if TABLE.exists() else ()
        return {
            (row.name, str(row.crop), crop_pct, row.interpolation): (row.top1, row.top5)
            for row in known
            for crop_pct in _crop_pcts(row)
        }
    with open(path, encoding="utf-8", newline="") as file:
        return {
            (line["model"], line["img_size"], line["crop_pct"], line["interpolation"]): (line["top1"], line["top5"])
            for line in csv.DictReader(file)
        }


def _crop_pcts(row: Published) -> list[str]:
    """Every crop_pct of three digits that gives this row's resize."""
    return [f"{pct / 1000:.3f}" for pct in range(1, 1001) if math.floor(row.crop / (pct / 1000)) == row.resize]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the table of published weights.")
    parser.add_argument("--results", metavar="CSV", help="results/results-imagenet.csv of timm's repository")
    table = rows(read_accuracies(parser.parse_args().results))
    Path(TABLE).write_text(as_csv(table), encoding="utf-8")
    print(f"{len(table)} weights of {len({row.architecture for row in table})} networks: {TABLE}")


if __name__ == "__main__":
    main()
