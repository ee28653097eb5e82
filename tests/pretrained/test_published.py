"""The table of published weights against timm and torchvision themselves, every row of it."""

import numpy as np
import pytest

from bench.published_weights import as_csv, read_accuracies, rows
from nanoinfer.architectures import MODELS
from nanoinfer.image import preprocess
from nanoinfer.pretrained.published import TABLE, architecture_of, of_file, of_former, of_hub, of_tag, published, tags
from nanoinfer.reports.torch_reference import import_torchvision
from tests.helpers import noise

SIZES = [(300, 200), (161, 223), (500, 31)]  # of photographs: width and height


def timm_configs():
    """{(architecture, tag): timm's configuration} of everything that timm publishes for our networks."""
    import_torchvision()
    from timm.models import _registry

    defaults = {name: _registry._model_default_cfgs[name] for name in MODELS if name in _registry._model_default_cfgs}
    found = {(name, tag): table.cfgs[tag] for name, table in defaults.items() for tag in table.tags}
    return {key: config for key, config in found.items() if config.has_weights}


def torchvision_weights():
    """{(architecture, tag): a weight enum's member} of everything that torchvision publishes for our networks."""
    models = import_torchvision().models
    names = [name for name in MODELS if name in models.list_models(module=models)]
    return {(name, weights.name): weights for name in names for weights in models.get_model_weights(name)}


def test_table_is_what_the_script_writes():
    assert TABLE.read_text(encoding="utf-8") == as_csv(rows(read_accuracies(None)))


def test_table_has_every_weight_of_both_libraries():
    table = {(row.architecture, row.tag): row for row in published()}
    assert len(table) == len(published())
    assert set(table) == {*timm_configs(), *torchvision_weights()}
    for key, config in timm_configs().items():
        row = table[key]
        assert row.library == "timm" and row.url == (config.url or "") and row.classes == config.num_classes
        assert row.hub == f"timm/{row.name}" and config.hf_hub_id == "timm/"
    for key, weights in torchvision_weights().items():
        row, accuracy = table[key], weights.meta["_metrics"]["ImageNet-1K"]
        assert row.library == "torchvision" and (row.url, row.hub) == (weights.url, "")
        assert row.classes == len(weights.meta["categories"])
        assert (float(row.top1), float(row.top5)) == (accuracy["acc@1"], accuracy["acc@5"])


def pipelines():
    """(name, its row, the library's own transform) for every published weight."""
    for (architecture, tag), config in timm_configs().items():
        from timm.data import create_transform, resolve_data_config

        options = resolve_data_config({}, pretrained_cfg=config.to_dict())
        yield f"{architecture}.{tag}", of_tag(architecture, tag), create_transform(**options, is_training=False)
    for (architecture, tag), weights in torchvision_weights().items():
        yield f"{architecture}.{tag}", of_tag(architecture, tag), weights.transforms()


def test_preprocessing_of_every_row_equals_its_library():
    images = [noise(*size, seed=seed) for seed, size in enumerate(SIZES)]
    done, count = set(), 0
    for name, row, pipeline in pipelines():
        setting, count = row.preprocessing(), count + 1
        assert setting.source == f"{row.library}'s {name}"
        if (repr(pipeline), setting) in done:  # the same settings of both
            continue
        done.add((repr(pipeline), setting))
        for image, x in zip(images, preprocess(images, setting), strict=True):
            np.testing.assert_array_equal(x, pipeline(image).numpy(), err_msg=f"{name} {image.size}", strict=True)
    assert count == len(published()) > len(done)


def test_default_weights_are_the_first_of_timm_or_torchvisions_own():
    for name, architecture in MODELS.items():
        if architecture.weights and architecture.weights.startswith("hub:"):
            assert of_hub(architecture.weights.removeprefix("hub:")) in tags(name)


@pytest.mark.parametrize(
    "path, architecture, name",
    [
        ("resnet50-11ad3fa6.pth", "resnet50", "resnet50.IMAGENET1K_V2"),
        ("/a/b/resnet50-11ad3fa6.safetensors", "resnet50", "resnet50.IMAGENET1K_V2"),
        ("resnet50-11ad3fa6 (1).pth", "resnet50", "resnet50.IMAGENET1K_V2"),
        ("resnet50-11ad3fa6.pth.tar", "resnet50", "resnet50.IMAGENET1K_V2"),
        ("resnet50_a1_0-14fe96d1.pth", "resnet50", "resnet50.a1_in1k"),
        ("resnet50.a1_in1k.safetensors", "resnet50", "resnet50.a1_in1k"),
        ("weights/resnet50.a1_in1k/", "resnet50", "resnet50.a1_in1k"),
        ("resnet18-f37072fd.pth", "resnet18", "resnet18.IMAGENET1K_V1"),  # timm lists this file, too
        ("vit_b_16_swag-9ac1b537.pth", "vit_b_16", "vit_b_16.IMAGENET1K_SWAG_E2E_V1"),
        ("resnet18-f37072fd.pth", "resnet50", "resnet18.IMAGENET1K_V1"),
    ],
)
def test_files_are_known_by_their_names(path, architecture, name):
    assert of_file(path, architecture).name == name


def test_other_names_are_not_known():
    for path in ("resnet50.pth", "model.safetensors", "resnet50-11ad3fa7.pth", "", "."):
        assert of_file(path, "resnet50") is None
    assert of_hub("timm/resnet50.a1_in1k@main").name == "resnet50.a1_in1k"
    for repository in ("someone/resnet50", "timm/resnet50", ""):
        assert of_hub(repository) is None
    assert of_tag("resnet50", "a1") is None and of_tag("nothing", "a1_in1k") is None


def test_former_names_of_timm():
    assert architecture_of("tv_resnet34") == "resnet34" and architecture_of("gluon_resnet50_v1b") == "resnet50"
    assert of_former("tv_resnet34").name == "resnet34.tv_in1k" and of_former("resnet34") is None
    assert architecture_of("timm/resnet50.a1_in1k") == "resnet50" and architecture_of("resnext") == "resnext"


def test_accuracies_are_those_of_the_same_preprocessing(tmp_path):
    columns = "model,img_size,top1,top1_err,top5,top5_err,param_count,crop_pct,interpolation"
    lines = ["resnet50.a1_in1k,288,81,0,95,0,1,1.000,bicubic", "resnet50.a1_in1k,224,80.5,0,94.5,0,1,0.950,bicubic"]
    (tmp_path / "results.csv").write_text("\n".join([columns, *lines]))
    found = {row.name: row for row in rows(read_accuracies(tmp_path / "results.csv"))}
    assert (found["resnet50.a1_in1k"].top1, found["resnet50.a1_in1k"].top5) == ("80.5", "94.5")
    assert found["resnet50.a2_in1k"].top1 == "" and found["resnet50.IMAGENET1K_V1"].top1 == "76.130"
    measured = [row for row in published() if row.top1]
    assert all(50 < float(row.top1) < float(row.top5) < 100 for row in measured)
