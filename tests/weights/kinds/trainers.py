"""Kinds of files that trainers and people write with torch.save, as docs/checkpoints.md lists them; see torch_saved."""

import argparse
import collections
import datetime
import functools
import pathlib
import random

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel

from tests.weights.kinds.torch_saved import network, of, saved, state


def optimizer_state():
    """The state of an optimizer that has made a step."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3, 4, 6)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def timm_train(average=1):
    args = argparse.Namespace(model="resnet50", lr=0.1, mean=(0.5, 0.5, 0.5), data_dir=pathlib.PurePosixPath("data"))
    content = {"epoch": 3, "arch": "resnet50", "state_dict": state(), "optimizer": optimizer_state(), "version": 2}
    content |= {"args": args, "amp_scaler": {"scale": 65536.0}, "metric": np.float64(76.1)}
    return content | ({} if average is None else {"state_dict_ema": state(average)}), state(average or 0)


def timm_raw(folder):
    content, _ = timm_train()
    return [f"{saved(folder, content)}#state_dict"], state()


def without_average():
    return timm_train(None)[0] | {"state_dict_ema": None, "model_ema": None}, state()


def torchvision_references(average=False):
    args = argparse.Namespace(model="resnext50_32x4d", device="cuda", distributed=True)
    schedule = {"milestones": collections.Counter({30: 1}), "_last_lr": [0.1], "base_lrs": [0.1]}
    content = {"model": state(), "optimizer": optimizer_state(), "lr_scheduler": schedule, "epoch": 9, "args": args}
    return content | ({"model_ema": AveragedModel(network(1)).state_dict()} if average else {}), state(int(average))


def lightning():
    callback = {"best_model_score": torch.tensor(0.7), "best_model_path": "a.ckpt", "kth_value": torch.tensor(0.5)}
    progress = {"total": {"ready": 1}, "current": {"ready": 1}}
    content = {
        "epoch": 1,
        "global_step": 10,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": state(prefix="model."),
    }
    content |= {
        "loops": {"fit_loop": {"epoch_progress": progress}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": callback},
    }
    content |= {"optimizer_states": [optimizer_state()], "lr_schedulers": [], "hparams_name": "kwargs"}
    return content | {"hyper_parameters": {"act": torch.nn.ReLU(), "loss": torch.nn.functional.mse_loss}}, state()


def imagenet_example():
    content = {"epoch": 90, "arch": "resnet50", "best_acc1": torch.tensor(76.1), "state_dict": state(prefix="module.")}
    return content | {"optimizer": optimizer_state(), "scheduler": {"step_size": 30}}, state()


def pth_tar(folder):
    content, expected = imagenet_example()
    return [saved(folder, content, "model_best.pth.tar")], expected


def side_entries():
    side = {"counter": collections.Counter("aab"), "default": collections.defaultdict(list, a=[1]), "set": {1, 2}}
    side |= {"frozen": frozenset("ab"), "time": datetime.datetime(2024, 1, 1), "size": torch.Size([1, 2]), "big": 2**70}
    side |= {
        "scalar": np.float32(0.5),
        "array": np.arange(3),
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }
    side |= {
        "generator": np.random.default_rng(0),
        "torch": torch.get_rng_state(),
        "dtype": torch.float16,
        "bytes": b"\x00",
    }
    side |= {"path": pathlib.Path("a"), "partial": functools.partial(print, end=""), "deque": collections.deque([1], 5)}
    side |= {"device": torch.device("cpu"), "range": range(3), "slice": slice(1, 2), "complex": 1j, (1, 2): "a tuple"}
    side |= {"sparse": torch.ones(2).to_sparse(), "array of bytes": bytearray(b"ab"), "none": None, 0.5: [(), {}]}
    return side | {"model": state()}, state()


def several_protocols(folder):
    content, expected = side_entries()
    return [saved(folder, content, f"{p}.pth", pickle_protocol=p) for p in (2, 4, 5)], expected


WRAPPERS = ("state_dict", "model_state_dict", "model", "model_state", "net", "network", "weights", "params", "module")


def wrappers(folder):
    return [saved(folder, {"epoch": 1, key: state()}, f"{key}.pth") for key in WRAPPERS], state()


def averages(folder):
    keys = ("state_dict_ema", "model_ema", "ema", "ema_state_dict", "ema_model", "params_ema")
    return [saved(folder, {"epoch": 1, key: {"module": state(), "updates": 7}}, f"{key}.pth") for key in keys], state()


def composer():
    return {"state": {"model": state(prefix="module."), "optimizers": {"AdamW": optimizer_state()}, "rng": []}}, state()


PREFIXES = (
    "_orig_mod.",
    "module.",
    "model.",
    "net.",
    "backbone.",
    "timm_model.",
    "module._orig_mod.model.",
    "_fsdp_wrapped_module.",
)


def prefixes(folder):
    return [saved(folder, state(prefix=prefix), f"{prefix}pth") for prefix in PREFIXES], state()


def averaged_model(folder):
    mmengine = {"steps": torch.tensor(3)} | state(prefix="module.")
    return [saved(folder, AveragedModel(network()).state_dict()), saved(folder, mmengine, "mmengine.pth")], state()


def whole_model_in_a_checkpoint():
    return {"epoch": -1, "best_fitness": None, "model": network(), "ema": None, "train_args": {"lr0": 0.01}}, None


class Malicious:
    """Its pickle calls a function of the system."""

    def __reduce__(self):
        return __import__("os").system, ("exit 1",)


KINDS = {
    "timm's training script": of(lambda: timm_train(None)),
    "timm's training script with `--model-ema`": of(timm_train),
    "the same, as `PATH#state_dict`": timm_raw,
    "timm's training script, its average being None": of(without_average),
    "torchvision references": of(torchvision_references),
    "torchvision references with `--model-ema`": of(lambda: torchvision_references(True)),
    "a `.ckpt` of Lightning": of(lightning),
    "`model_best.pth.tar` of PyTorch's ImageNet example": pth_tar,
    "any Python objects beside the weights": several_protocols,
    "weights under `model`, `net`, `network`, `weights` and the like": wrappers,
    "an average alone, as `ema` with its own `module`": averages,
    "a checkpoint of Composer": of(composer),
    "weights under a name of one's own": of(lambda: ({"generator": state(), "step": 1}, state())),
    "a list of state dicts: weights, then the optimizer's": of(lambda: ([state(), optimizer_state()], state())),
    "names that all begin with `module.`, `_orig_mod.`, `model.` and the like": prefixes,
    "`AveragedModel` of torch or mmengine": averaged_model,
    "several networks, as `PATH#generator`": lambda folder: (
        [f"{saved(folder, {'generator': state(), 'critic': state(1)})}#generator"],
        state(),
    ),
    "several networks": of(lambda: ({"student": state(), "teacher": state(1)}, None)),
    "a `PATH#name` that the file does not have": lambda folder: ([f"{saved(folder, timm_train()[0])}#average"], None),
    "`torch.save(model, path)`, a whole model": of(lambda: (network(), None)),
    "a whole model under a key, as YOLO's": of(whole_model_in_a_checkpoint),
    "an optimizer's state alone": of(lambda: (optimizer_state(), None)),
    "a state dict with None in it": of(lambda: (state() | {"2.bias": None}, None)),
    "a state dict with a number in it": of(lambda: (state() | {"epoch": 3}, None)),
    "an object that would run a program": of(lambda: (state() | {"weight": Malicious()}, None)),
}
