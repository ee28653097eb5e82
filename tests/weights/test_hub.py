"""Weights from the Hugging Face hub, which is a server on the loopback interface."""

import json
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from nanoinfer.weights import load_weights, read_weights, save_safetensors
from nanoinfer.weights.hub import TIMEOUT

from tests.weights.files import refused_source
from tests.weights.hub_server import COMMIT, Hub

pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture(scope="module")
def server():
    hub = Hub()
    yield hub
    hub.shutdown()


@pytest.fixture
def hub(server, monkeypatch, tmp_path):
    """The server without repositories, and an empty cache."""
    server.repositories.clear()
    server.requests.clear()
    point_to(monkeypatch, server.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return server


def point_to(monkeypatch, url):
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    """part("a") are the bytes of a safetensors file of one tensor of that name."""

    def content(name):
        path = tmp_path_factory.mktemp("part") / "m.safetensors"
        save_safetensors({name: np.ones(2, np.float32)}, path)
        return path.read_bytes()

    return content


def test_model_is_read_with_its_config(hub, part):
    config = {"architecture": "mobilenetv3_small_100", "num_classes": 1000}
    files = {"model.safetensors": part("a"), "config.json": json.dumps(config).encode(), "README.md": b"text"}
    hub.repositories["timm/mobilenetv3_small_100.lamb_in1k"] = files
    weights = read_weights("hub:timm/mobilenetv3_small_100.lamb_in1k")
    assert list(weights.arrays) == ["a"] and weights.config == config and weights.notes == ()
    assert weights.name == "hub:timm/mobilenetv3_small_100.lamb_in1k"
    hub.requests.clear()
    assert read_weights("hub:timm/mobilenetv3_small_100.lamb_in1k").config == config
    assert len(hub.requests) == 1, "what is in the cache is not asked for again"


def test_transformers_word_on_images_is_read_with_the_config(hub, part):
    config, processor = {"model_type": "vit"}, {"size": 224}
    files = {"config.json": json.dumps(config).encode(), "preprocessor_config.json": json.dumps(processor).encode()}
    hub.repositories["owner/name"] = {"model.safetensors": part("a"), **files}
    assert read_weights("hub:owner/name").config == {**config, "preprocessor_config": processor}
    hub.repositories["owner/other"] = {"model.safetensors": part("a"), "config.json": files["config.json"]}
    assert read_weights("hub:owner/other").config == config
    hub.repositories["owner/third"] = {**hub.repositories["owner/name"], "config.json": b"{}"}
    assert read_weights("hub:owner/third").config == {}


def test_revision_is_asked_for(hub, part):
    hub.repositories["owner/name"] = {"model.safetensors": part("a")}
    assert read_weights("hub:owner/name@refs/pr/1").config is None
    assert any("/owner/name/resolve/refs%2Fpr%2F1/model.safetensors" in line for line in hub.requests)
    assert list(load_weights(f"hub:owner/name@{COMMIT}")) == ["a"]


def test_other_weight_files_are_found(hub, part, torch_bytes):
    hub.repositories["owner/name"] = {"pytorch_model.bin": torch_bytes, "optimizer.pt": b""}
    assert "0.weight" in load_weights("hub:owner/name")
    hub.repositories["owner/other"] = {"best.ckpt": torch_bytes, "README.md": b"", "onnx/model.onnx": b""}
    weights = read_weights("hub:owner/other")
    assert "0.weight" in weights.arrays and weights.notes == (
        "takes best.ckpt, the only weight file of this kind there",
    )
    hub.repositories["owner/none"] = {"README.md": b"", "onnx/model.safetensors": b""}
    refused_source("hub:owner/none", "hub:owner/none: has no model.safetensors, pytorch_model.bin or other weight file")
    hub.repositories["owner/two"] = {"a.ckpt": torch_bytes, "b.ckpt": torch_bytes}
    refused_source("hub:owner/two", "hub:owner/two: holds several weight files, a.ckpt, b.ckpt")


def test_shards_are_read(hub, part):
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    files = {shard: part(name) for name, shard in weight_map.items()}
    files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    hub.repositories["owner/name"] = files
    assert list(load_weights("hub:owner/name")) == ["a", "b"]
    del files["model-00002-of-00002.safetensors"]
    hub.repositories["owner/missing"] = files
    refused_source("hub:owner/missing", "hub:owner/missing: a file that its index names is missing on the hub")


def test_entry_behind_the_name_is_taken(hub, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"model": {"a": torch.ones(1)}, "ema": {"a": torch.zeros(1)}}, tmp_path / "m.bin")
    hub.repositories["owner/name"] = {"pytorch_model.bin": (tmp_path / "m.bin").read_bytes()}
    assert load_weights("hub:owner/name")["a"] == 0
    assert load_weights("hub:owner/name#model")["a"] == 1
    refused_source("hub:owner/name#other", "has no weights under 'other'")


@pytest.mark.parametrize(
    "fault, words",
    [
        ("missing", "no such model on the hub, or it is private; check the name, or run: hf auth login"),
        ("gated", "access to the model is restricted; accept its terms at https://huggingface.co/owner/name, then run"),
        ("revision", "the model has no revision 'other'; check it or leave it out"),
        ("token", "the hub refuses access (401), perhaps for an old token; run: hf auth login"),
        ("forbidden", "the hub refuses access (403)"),
        ("limited", "the hub limits how often it is asked (429), and the cache has no copy of the model; wait some"),
        ("down", "the hub is out of order (503), and the cache has no copy of the model; download the weights by hand"),
        ("other", "no such model on the hub; check the name"),
    ],
)
def test_faults_are_told_apart(hub, fault, words):
    hub.repositories["owner/name"] = fault
    start = time.perf_counter()
    refused_source("hub:owner/name@other", f"hub:owner/name@other: {words}")
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("fault, words", [("limited", "(429)"), ("down", "(503)"), ("slow", "gives no answer within")])
def test_copy_in_the_cache_serves_while_the_hub_does_not(hub, part, monkeypatch, fault, words):
    monkeypatch.setattr("nanoinfer.weights.hub.TIMEOUT", 0.5)
    hub.repositories["owner/name"] = {"model.safetensors": part("a"), "config.json": b"{}"}
    read_weights("hub:owner/name")
    hub.repositories["owner/name"] = fault
    weights = read_weights("hub:owner/name")
    assert list(weights.arrays) == ["a"] and weights.config == {}
    (note,) = weights.notes
    assert note.startswith("is the copy in the local cache, since the hub ") and words in note


def test_dead_server_costs_at_most_ten_seconds(hub, monkeypatch):
    assert 2 * TIMEOUT <= 10, "for the first answer, and for the download"
    monkeypatch.setattr("nanoinfer.weights.hub.TIMEOUT", 0.5)
    start = time.perf_counter()
    for fault, words in (("silent", "cannot be reached (timed out)"), ("slow", "gives no answer within 0.5 s")):
        hub.repositories["owner/name"] = fault
        refused_source("hub:owner/name", f"hub:owner/name: the hub {words}, and the cache has no copy of the model")
    hub.repositories["owner/name"] = {"model.safetensors": b"content", "stalls": b""}
    refused_source("hub:owner/name", "hub:owner/name: the hub gives no answer within 0.5 s, and the cache has no copy")
    with socket.socket() as closed:  # bound, but it does not listen
        closed.bind(("127.0.0.1", 0))
        point_to(monkeypatch, f"http://127.0.0.1:{closed.getsockname()[1]}")
        refused_source("hub:owner/name", "the hub cannot be reached (", "and the cache has no copy of the model")
    assert time.perf_counter() - start < 5


def test_offline_mode_takes_the_cache(hub, part, tmp_path):
    """With the environment variables that users set."""
    hub.repositories["owner/name"] = {"model.safetensors": part("a")}
    settings = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}

    def convert():
        command = [sys.executable, "-m", "nanoinfer", "convert", "hub:owner/name", str(tmp_path / "out.safetensors")]
        return subprocess.run(command, capture_output=True, text=True, env=settings).stderr

    refusal = "nanoinfer: hub:owner/name: HF_HUB_OFFLINE is set, and the cache has no copy of the model; download"
    assert convert().startswith(refusal)
    settings["HF_HUB_OFFLINE"] = "0"
    assert convert() == ""
    settings["HF_HUB_OFFLINE"] = "1"
    assert convert() == "nanoinfer: hub:owner/name: is the copy in the local cache, since HF_HUB_OFFLINE is set\n"


def test_malformed_names_and_a_missing_extra_are_refused(hub, monkeypatch):
    for spec in ("", "name", "a/b/c", "a/b@", "../x/y", "a /b", "a/b\n", "a/b@../c", "../.."):
        refused_source(f"hub:{spec}", "not a model name; write hub:owner/name")
    assert not hub.requests
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused_source("hub:owner/name", "pip install huggingface_hub")
