"""Weights from the Hugging Face hub, without a network."""

import sys

import pytest
from nanoinfer.weights import load_weights
from nanoinfer.weights.hub import hub_file

from tests.weights.files import refused_source


@pytest.fixture
def hub(monkeypatch, tmp_path, safetensors_bytes):
    """huggingface_hub without network: (files, calls, its errors, the path of a sound file).

    `files` maps a file name to the path that its download gives or to the exception that it raises; `calls` collects
    the requests.
    """
    module = pytest.importorskip("huggingface_hub")
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes)
    files, calls = {}, []

    def download(repository, name, revision=None, local_files_only=False):
        calls.append((repository, name, revision))
        result = files.get(name, module.utils.EntryNotFoundError("404"))
        if isinstance(result, Exception):
            raise result
        return str(result)

    monkeypatch.setattr(module, "hf_hub_download", download)
    return files, calls, module.utils, tmp_path / "model.safetensors"


def http_error(kind):
    """An HTTP error of huggingface_hub, made without its constructor, which differs between releases."""
    error = kind.__new__(kind)
    Exception.__init__(error, "401\nRequest ID")
    return error


def test_hub_names_and_revisions_find_files(hub):
    files, calls, _, path = hub
    files["model.safetensors"] = path
    assert sorted(load_weights("hub:timm/mobilenetv3_small_100.lamb_in1k")) == ["a", "b", "c"]
    assert hub_file("owner/name@refs/pr/1") == str(path)
    assert calls[1] == ("owner/name", "model.safetensors", "refs/pr/1")
    files.clear()
    files["pytorch_model.bin"] = path
    assert hub_file("owner/name") == str(path)


def test_hub_errors_say_what_to_do(hub, monkeypatch):
    files, _, errors, _ = hub
    refused_source("hub:owner/name", "neither model.safetensors nor pytorch_model.bin", "pass their path")
    for failure, word in [
        (ConnectionError("no route\nto host"), "by hand"),
        (RuntimeError(""), "RuntimeError"),
        (errors.LocalEntryNotFoundError("offline"), "by hand from https://huggingface.co/owner/name"),
        (http_error(errors.RepositoryNotFoundError), "no such model"),
        (http_error(errors.GatedRepoError), "accept its terms"),
        (http_error(errors.RevisionNotFoundError), "no revision 'main'"),
    ]:
        files["model.safetensors"] = failure
        refused_source("hub:owner/name@main", "hub:owner/name@main", word)
    for spec in ("", "name", "a/b/c", "a/b@", "../x/y", "a /b", "a/b\n"):
        refused_source(f"hub:{spec}", "hub:owner/name")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused_source("hub:owner/name", "pip install huggingface_hub")
