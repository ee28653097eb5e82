"""Train the model that ships inside the package: `python -m bench.train_digits`.

The walkthrough's MobileNetV2 at width 0.35 learns scikit-learn's handwritten digits (UCI, 1,797 scans of 8 x 8) on
96 x 96 images, so that an installation can recognise something without a download. A fixed stratified split holds out
a fifth of the scans, which only score the written file: the settings below were found on a validation fifth of the
training scans, and the last epoch is the result. The program writes digits.safetensors, digits.json, digits_test.npz,
ten sample scans and DIGITS_ATTRIBUTION.md into nanoinfer/data, in about five minutes on one core.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import PIL
import safetensors.numpy
import sklearn
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from bench.references import reference, state_arrays

WIDTH = 0.35
SIZE = 96  # pixels per side; a scan pixel becomes 12 x 12
MEAN = STD = 0.5
BATCH = 16  # small on purpose: 1,437 scans give few steps, and the noise regularises
SPLIT_SEED = 0
CLASSES = [str(digit) for digit in range(10)]

ATTRIBUTION = """\
# Digits: data, samples and weights

The scans in `digits/` and `digits_test.npz`, and the training data behind `digits.safetensors`, come from

> E. Alpaydin and C. Kaynak (1998). Optical Recognition of Handwritten Digits. UCI Machine Learning Repository.
> https://doi.org/10.24432/C50P49

licensed under the Creative Commons Attribution 4.0 International licence (CC BY 4.0,
https://creativecommons.org/licenses/by/4.0/). They were taken from the copy that scikit-learn distributes as
`sklearn.datasets.load_digits`: the 1,797 scans of the original test set, 8 x 8 pixels with values 0 to 16.

Changes:

- `digits_test.npz` holds the {held_out} scans that were not used in training, values unchanged, stored as uint8, with
  their labels.
- `digits/digit_0.png` ... `digit_9.png` are the first of those scans of each class, as 8 x 8 greyscale PNG files; a
  value v became round(v * 255 / 16), a half rounded to even.
- `digits.safetensors` holds the weights of a network trained on the other {trained} scans by `bench/train_digits.py`.
"""


def scan_image(scan):
    """An 8 x 8 greyscale image from scan values v in 0..16: round(v * 255 / 16), a half to even."""
    # In float64, because v * 255 would wrap in the uint8 of the scans.
    return Image.fromarray(np.rint(np.asarray(scan, np.float64) * 255 / 16).astype(np.uint8))


def image_array(image):
    """float32 (3, 96, 96) from a PIL image: RGB, bilinear to 96 x 96, mean 0.5, std 0.5.

    For a square image it equals the model's preprocessing: shorter side to 96, centre crop of 96.
    """
    pixels = np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float32)
    return np.ascontiguousarray(((pixels / 255 - MEAN) / STD).transpose(2, 0, 1), np.float32)


def split():
    """(training scans, labels), (held-out scans, labels): uint8 (n, 8, 8) in 0..16 and int64 (n,), in dataset order."""
    digits = load_digits()
    scans, labels = digits.images.astype(np.uint8), digits.target.astype(np.int64)
    rows = np.arange(len(labels))
    train, test = map(np.sort, train_test_split(rows, test_size=0.2, stratify=labels, random_state=SPLIT_SEED))
    return (scans[train], labels[train]), (scans[test], labels[test])


def augment(images):
    """Images (n, 3, 96, 96), rotated by up to 12 degrees, scaled by 0.85..1.15, shifted by up to 1.2 scan pixels."""
    n = len(images)
    angle = torch.deg2rad(torch.empty(n).uniform_(-12, 12))
    scale = torch.empty(n).uniform_(0.85, 1.15)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = torch.cos(angle) / scale
    theta[:, 1, 0] = torch.sin(angle) / scale
    theta[:, 0, 1] = -theta[:, 1, 0]
    theta[:, :, 2].uniform_(-0.3, 0.3)  # in half widths: 0.25 is a scan pixel
    grid = torch.nn.functional.affine_grid(theta, images.shape, align_corners=False)
    # grid_sample pads with 0, but a scan's background is -1.
    return torch.nn.functional.grid_sample(images + 1, grid, align_corners=False) - 1


@torch.no_grad()
def initialise(model):
    """He's initialisation, and residual branches that start at zero: the network learns in half the epochs."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        if getattr(layer, "residual", False):
            torch.nn.init.zeros_(layer.bn_pwconv1.weight)


def train(scans, labels, epochs, seed):
    """The torch module after `epochs` of a fixed schedule, in eval mode."""
    torch.manual_seed(seed)
    images = torch.from_numpy(np.stack([image_array(scan_image(scan)) for scan in scans]))
    labels = torch.from_numpy(labels)
    # Channels last trains about a third faster on a CPU.
    model = reference("mobilenetv2_article", width=WIDTH, num_classes=len(CLASSES)).train()
    initialise(model)
    model = model.to(memory_format=torch.channels_last)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}])
    steps = len(labels) // BATCH  # full batches only, for batch norm; each epoch leaves out other scans
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=epochs * steps)
    for epoch in range(epochs):
        start, total = time.perf_counter(), 0.0
        for rows in torch.randperm(len(labels))[: steps * BATCH].split(BATCH):
            batch = augment(images[rows]).contiguous(memory_format=torch.channels_last)
            loss = torch.nn.functional.cross_entropy(model(batch), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        if not math.isfinite(total):
            raise SystemExit(f"epoch {epoch + 1}: the loss is {total}")
        print(f"epoch {epoch + 1}/{epochs}  loss {total / steps:.4f}  {time.perf_counter() - start:.1f} s", flush=True)
    return model.to(memory_format=torch.contiguous_format).eval()


@torch.no_grad()
def score(path, scans, labels):
    """The number of scans that the network in the safetensors file `path` labels rightly, read into a fresh module."""
    model = reference("mobilenetv2_article", width=WIDTH, num_classes=len(CLASSES))
    arrays = safetensors.numpy.load_file(path)
    missing, unexpected = model.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()}, strict=False)
    if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
        raise ValueError(f"{path} does not fit the model: missing {missing}, unexpected {unexpected}")
    images = torch.from_numpy(np.stack([image_array(scan_image(scan)) for scan in scans]))
    return int((model(images).argmax(1).numpy() == labels).sum())


def main():
    """Train, write the files, and score the written weights on the held-out scans."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="the weights' last bits depend on it")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "nanoinfer" / "data")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    (train_scans, train_labels), (scans, labels) = split()

    start = time.perf_counter()
    model = train(train_scans, train_labels, options.epochs, options.seed)
    seconds = time.perf_counter() - start

    folder = options.output
    weights = folder / "digits.safetensors"
    (folder / "digits").mkdir(parents=True, exist_ok=True)
    arrays = state_arrays(model)
    metadata = {
        "architecture": "mobilenetv2_article",
        "width": str(WIDTH),
        "num_classes": str(len(CLASSES)),
        "input_size": f"3 {SIZE} {SIZE}",
        "preprocessing": f"RGB, resize shorter side to {SIZE} bilinear, centre crop {SIZE}, mean {MEAN}, std {STD}",
        "dataset": "UCI Optical Recognition of Handwritten Digits (scikit-learn load_digits), CC BY 4.0",
        "split": f"stratified, {len(train_labels)} train, {len(labels)} held out, random_state {SPLIT_SEED}",
    }
    safetensors.numpy.save_file(arrays, weights, metadata)
    correct = score(weights, scans, labels)
    metadata["accuracy"] = f"{correct / len(labels):.4f} ({correct}/{len(labels)} held-out scans)"
    safetensors.numpy.save_file(arrays, weights, metadata)

    weights.chmod(0o644)  # safetensors writes for the owner alone

    np.savez_compressed(folder / "digits_test.npz", scans=scans, labels=labels.astype(np.uint8))
    for digit in range(len(CLASSES)):
        scan_image(scans[np.argmax(labels == digit)]).save(folder / "digits" / f"digit_{digit}.png")
    report = {
        "accuracy": correct / len(labels),
        "correct": correct,
        "total": len(labels),
        "classes": CLASSES,
        "width": WIDTH,
        "input_size": [3, SIZE, SIZE],
        "mean": [MEAN] * 3,
        "std": [STD] * 3,
        "interpolation": "bilinear",
        "split": {"train": len(train_labels), "held_out": len(labels), "random_state": SPLIT_SEED},
        "seed": options.seed,
        "epochs": options.epochs,
        "threads": options.threads,
        "versions": {
            "torch": torch.__version__,
            "scikit-learn": sklearn.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
        },
    }
    (folder / "digits.json").write_text(json.dumps(report, indent=2) + "\n")
    text = ATTRIBUTION.format(held_out=len(labels), trained=len(train_labels))
    (folder / "DIGITS_ATTRIBUTION.md").write_text(text)
    print(f"{metadata['accuracy']}, {weights.stat().st_size:,} bytes, trained in {seconds:.0f} s")


if __name__ == "__main__":
    main()
