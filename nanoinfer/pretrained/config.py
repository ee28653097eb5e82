"""config.json, which lies beside weights and says what they mean: that of timm and that of HF transformers.

timm writes {"architecture", "num_classes", "label_names", "label_descriptions", "model_args", "pretrained_cfg": {...}}
and once wrote the fields of pretrained_cfg beside "architecture". transformers writes {"model_type", "id2label", ...}
and, in a file of its own, preprocessor_config.json, how images are prepared. All of it comes from outside: a value of
another form than these is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from numbers import Integral, Real

from ..errors import InputError, printable
from ..preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from .records import Config

PREPARED = ("input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")  # what timm says about images
# Arguments of timm's models that change no answer, or that the tensors tell.
HARMLESS = ("drop_rate", "drop_path_rate", "drop_block_rate", "pretrained", "num_classes", "img_size")
RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's numbers of its filters
AS_USUAL = {"do_resize": True, "do_rescale": True, "do_flip_channel_order": False, "rescale_factor": 1 / 255}
MOST_LABELS = 1_000_000


def read_config(config: Mapping | None, name: str) -> Config:
    """What a parsed config.json says about the weights; `name` names these in messages.

    Raises InputError where a value has not the form that timm and transformers give it, and for arguments that our
    networks do not have.
    """
    if not config:
        return Config()
    where = f"{name}: its config.json"
    if isinstance(config.get("architecture"), str):
        return _timm(config, where)
    if "id2label" in config or "model_type" in config:
        return _transformers(config, where)
    return Config()


def _timm(config: Mapping, where: str) -> Config:
    nested = config.get("pretrained_cfg")
    flat = nested is None
    cfg = config if flat else _checked(nested, Mapping, f"{where}: pretrained_cfg")
    names = config.get("label_names", cfg.get("label_names", cfg.get("labels")))
    descriptions = config.get("label_descriptions", cfg.get("label_descriptions"))
    classes = config.get("num_classes", cfg.get("num_classes"))
    if classes is not None:
        _whole(classes, f"{where}: num_classes", least=0)
    preprocessing = _timm_preprocessing(cfg, where) if any(cfg.get(key) is not None for key in PREPARED) else None
    labels = _timm_labels(names, descriptions, where)
    return Config(printable(config["architecture"]), classes, labels, preprocessing, _arguments(config, where))


def _arguments(config: Mapping, where: str) -> dict[str, object]:
    """The arguments of timm's model that change its answers."""
    given = _checked(config.get("model_args") or {}, Mapping, f"{where}: model_args")
    arguments = {str(key): value for key, value in given.items() if key not in HARMLESS and value is not None}
    pool = config.get("global_pool")
    return arguments if pool in (None, "") else {"global_pool": pool, **arguments}


def _timm_preprocessing(cfg: Mapping, where: str) -> Preprocessing:
    """timm's rule (timm/data/transforms_factory.py): resize is the size of the input over crop_pct, rounded down."""

    def value(key, default=None):
        return default if cfg.get(key) is None else cfg[key]

    size = _checked(value("input_size", (3, 224, 224)), (list, tuple), f"{where}: input_size")
    if len(size) != 3:
        raise InputError(f"{where}: input_size is not [channels, height, width]")
    channels, *crop = (_whole(number, f"{where}: input_size") for number in size)
    pct = _share(value("crop_pct", 0.875), where)
    resize = tuple(math.floor(side / pct) for side in crop)
    return _preprocessing(
        where,
        resize=resize[0] if resize[0] == resize[1] else resize,
        crop=tuple(crop),
        interpolation=value("interpolation", "bicubic"),
        mean=value("mean", IMAGENET_MEAN),
        std=value("std", IMAGENET_STD),
        crop_mode=value("crop_mode", "center"),
    ).for_channels(channels)


def _preprocessing(where: str, **fields) -> Preprocessing:
    try:
        return Preprocessing(**fields, source=where.replace(": its", "'s"))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _timm_labels(names, descriptions, where: str) -> tuple[str, ...] | None:
    """timm's names, each by its description where there is one."""
    labels = label_list(names, f"{where}: label_names")
    if labels is None or descriptions is None:
        return labels
    table = _checked(descriptions, Mapping, f"{where}: label_descriptions")
    return tuple(printable(table.get(label) or label) for label in labels)


def label_list(names, where: str) -> tuple[str, ...] | None:
    """A list of names, or a mapping of class number to name, which may have gaps."""
    if names is None:
        return None
    if isinstance(names, Mapping):
        numbers = [str(number) for number in names]
        if not all(re.fullmatch("[0-9]{1,6}", number) for number in numbers):
            raise InputError(f"{where}: its keys are not the numbers of classes")
        table = dict(zip(map(int, numbers), names.values(), strict=True))
        names = [table.get(index, "") for index in range(max(table, default=-1) + 1)]
    if not isinstance(names, (list, tuple)):
        raise InputError(f"{where}: a {type(names).__name__}, not a list of names")
    return tuple(printable(name) if isinstance(name, (str, Integral)) else "" for name in names) or None


def _transformers(config: Mapping, where: str) -> Config:
    labels = label_list(config.get("id2label"), f"{where}: id2label")
    processor = config.get("preprocessor_config")  # read_weights puts that file here
    preprocessing = None
    if processor is not None:
        where = where.replace("config.json", "preprocessor_config.json")
        preprocessing = _processor(_checked(processor, Mapping, where), where)
    return Config(labels=labels, preprocessing=preprocessing)


def _processor(config: Mapping, where: str) -> Preprocessing:
    """How an image processor of transformers prepares images: resize, perhaps crop, divide by 255, normalise."""
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    stated = config.get("size", 224)
    size, shorter = _area(stated, f"{where}: size"), isinstance(stated, Mapping) and "shortest_edge" in stated
    if kind.startswith(
        "ConvNext"
    ):  # ResNet's too: a crop of crop_pct below 384 pixels, and all of the image from there
        crop = size if isinstance(size, int) else size[0]
        pct = _share(config.get("crop_pct") or 224 / 256, where)
        mode, resize = ("center", int(crop / pct)) if crop < 384 else ("squash", crop)
    elif config.get("do_center_crop") and config.get("crop_size") is not None:
        crop, resize = _area(config["crop_size"], f"{where}: crop_size"), size
        mode = "center" if shorter else "squash"
    elif shorter:
        raise InputError(
            f"{where}: size is that of the shorter side, without a crop; give the options --resize, --crop"
        )
    else:
        crop, resize, mode = size, size, "squash"
    for key, value in AS_USUAL.items():
        if config.get(key, value) != value and config.get(key) is not None:
            raise InputError(f"{where}: {key} is {printable(config[key], 40)}; give the options --resize, --crop ...")
    filters = config.get("resample", 2)
    if not isinstance(filters, Integral) or not 0 <= filters < len(RESAMPLE):
        raise InputError(f"{where}: resample={printable(filters, 40)} is no filter of Pillow")
    normalised = config.get("do_normalize", True)
    return _preprocessing(
        where,
        resize=resize,
        crop=crop,
        interpolation=RESAMPLE[filters],
        mean=config.get("image_mean", (0.5,) * 3) if normalised else (0.0,) * 3,
        std=config.get("image_std", (0.5,) * 3) if normalised else (1.0,) * 3,
        crop_mode=mode,
    )


def _area(size, where: str) -> int | tuple[int, int]:
    """transformers' size: a number, {"shortest_edge"} (both the shorter side) or {"height", "width"}."""
    if isinstance(size, Mapping):
        if "shortest_edge" in size:
            return _whole(size["shortest_edge"], where)
        return tuple(_whole(size.get(side), where) for side in ("height", "width"))
    return _whole(size, where)


def _share(pct, where: str) -> float:
    if not isinstance(pct, Real) or isinstance(pct, bool) or not 0.01 < pct <= 100:
        raise InputError(f"{where}: crop_pct={printable(pct, 40)} is no share of an image")
    return pct


def _whole(value, where: str, least: int = 1) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or not least <= value <= MOST_LABELS:
        raise InputError(f"{where}={printable(value, 40)} is not a whole number from {least} on")
    return int(value)


def _checked(value, kind, where: str):
    """`value` if it is of that kind."""
    if not isinstance(value, kind):
        raise InputError(f"{where} is a {type(value).__name__}, not what timm or transformers writes there")
    return value
