"""Files as timm writes them: weights with their config.json."""

import torch
from nanoinfer.weights import WeightSource

from nanoinfer import checkpoint
from nanoinfer.reports.torch_reference import import_torchvision

NAME = "mobilenetv3_small_050"


def timm_module(name=NAME, **options):
    import_torchvision()
    import timm

    torch.manual_seed(0)
    return timm.create_model(name, **options).eval()


def saved(folder, module, **model_config):
    """The folder, with weights and config.json as timm's push_to_hf_hub writes them."""
    from timm.models import save_for_hf

    save_for_hf(module, folder, model_config=model_config, safe_serialization=True)
    return folder / "model.safetensors"


def hub(monkeypatch, source, config=None):
    """Let every name of a hub stand for these arrays and this config."""
    arrays = {key: value.numpy() for key, value in source.state_dict().items()}
    monkeypatch.setattr(checkpoint, "read_weights", lambda name: WeightSource(arrays, (), config, name))
