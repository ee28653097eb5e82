"""Files of the five networks, made exactly as their publishers made them: names, format, dtype and wrapper."""

import json
import re
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import nanoinfer
from bench.references import reference
from nanoinfer.architectures import MODELS
from nanoinfer.pretrained.published import of_tag
from tests.helpers import random_images

CLASSES = 1000
SIZE = {"vit_b_32": (224, 224)}  # others take any


def timm_config(tag):
    """The config.json of a repository of timm's."""
    architecture = tag.partition(".")[0]
    row = of_tag(*tag.split("."))
    cfg = {
        "tag": row.tag, "custom_load": False, "input_size": [3, row.crop, row.crop], "fixed_input_size": False,
        "interpolation": row.interpolation, "crop_pct": 0.875, "crop_mode": "center", "mean": row.mean, "std": row.std,
        "num_classes": CLASSES, "pool_size": [7, 7], "first_conv": "conv_stem", "classifier": "classifier",
    }  # fmt: skip
    return {"architecture": architecture, "num_classes": CLASSES, "num_features": 1792, "pretrained_cfg": cfg}


def timm_repository(module, tag, folder):
    """model.safetensors as timm's push_to_hf_hub writes it, with the counters of batch norms, and config.json."""
    save_file(module.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(timm_config(tag)))
    return folder


def torchvision_2019(module, name, folder):
    """A legacy file: pickles and raw storages, as torch.save wrote before 1.6."""
    path = folder / f"{name}.pth"
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=False)
    return path


def torchvision_2021_vit(module, name, folder):
    """A zip with the names of MLPBlock before torchvision 0.13."""
    renamed = {"mlp.0.": "mlp.linear_1.", "mlp.3.": "mlp.linear_2."}
    state = OrderedDict()
    for key, tensor in module.state_dict().items():
        state[re.sub(r"mlp\.[03]\.", lambda match: renamed[match[0]], key)] = tensor
    path = folder / f"{name}.pth"
    torch.save(state, path)
    return path


def walkthrough(module, name, folder):
    """The article's own `torch.save(model.state_dict(), path)`."""
    path = folder / f"{name}.pth"
    torch.save(module.state_dict(), path)
    return path


PUBLISHED = {  # architecture: (name of its published file, how it was made)
    "mobilenetv2_140": ("mobilenetv2_140.ra_in1k", timm_repository),
    "mobilenetv3_small_100": ("mobilenetv3_small_100.lamb_in1k", timm_repository),
    "resnext50_32x4d": ("resnext50_32x4d-7cdf4587", torchvision_2019),
    "vit_b_32": ("vit_b_32-d86f8d99", torchvision_2021_vit),
    "mobilenetv2_article": ("mobilenetv2_article", walkthrough),
    "mobilenet_v2": ("mobilenet_v2-b0353104", torchvision_2019),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_file_as_its_publisher_made_it(name, tmp_path):
    file, make = PUBLISHED[name]
    module = reference(name, seed=3)
    path = make(module, file, tmp_path)
    model = nanoinfer.create_model(name, path)
    assert model.classes == CLASSES and model.meaning.notes == ()
    assert all(array.dtype == np.float32 for array in model.tensors.values())
    x = random_images(1, SIZE.get(name, (64, 64)))
    with torch.no_grad():
        expected = module.double()(torch.from_numpy(x).double()).numpy()
    np.testing.assert_allclose(model(x), expected, atol=1e-4 * np.abs(expected).max())
    row = of_tag(name, "IMAGENET1K_V1") or of_tag(*PUBLISHED[name][0].partition(".")[::2])
    assert model.preprocessing == (row.preprocessing() if row else MODELS[name].preprocessing)
    assert model.meaning.assumed == (name == "mobilenetv2_article")  # nobody has published weights of that


def test_renamed_tensors_of_a_vit_are_not_accepted_twice(tmp_path):
    state = reference("vit_b_32", seed=3, image_size=32).state_dict()
    block = "encoder.layers.encoder_layer_0.mlp"
    state[f"{block}.linear_1.weight"] = state[f"{block}.0.weight"]
    with pytest.raises(nanoinfer.InputError, match="1 left over"):
        nanoinfer.create_model("vit_b_32", state)
