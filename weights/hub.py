"""Models on the Hugging Face hub, by name. Only this file imports huggingface_hub, an extra, and only when called.

The hub is first asked where the weights are. Each answer may take TIMEOUT seconds, and a download may stand still for
as long: the library itself tries a dead server for minutes. If the hub does not serve, a copy in the local cache does.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from ..errors import InputError, printable
from .buffer import open_file
from .folder import CONFIG, PROCESSOR, PUBLISHED, choose_file, is_of_transformers, read_config, shards_of

TIMEOUT = 5  # seconds


class _Unreachable(Exception):
    """The hub does not serve the model now, for a reason that may pass; the message is that reason."""


class _Place(NamedTuple):
    """Where a model's weights are: file, commit, notes on the choice, and whether a download grows a file steadily."""

    name: str
    commit: str | None
    notes: list[str]
    is_steady: bool


def hub_file(spec: str) -> tuple[str, list[str]]:
    """The path of a model's weight file in the local hub cache, and notes; what is not there is downloaded.

    spec: "owner/name" or "owner/name@revision". The file is the one that `folder.choose_file` takes; config.json and
    the shards of an index lie beside it. Raises InputError if the name is malformed, the extra is not installed, the
    model or the revision does not exist, access to it is restricted, it holds no weights, or the hub cannot be reached
    and the cache has no copy.
    """
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", spec, flags=re.ASCII)
    if not match or ".." in spec:
        raise InputError(f"hub:{printable(spec)}: not a model name; write hub:owner/name or hub:owner/name@revision")
    repository, revision = match[1], match[2] or "main"
    try:
        from huggingface_hub import utils
    except ImportError:
        raise InputError(f"hub:{spec}: needs huggingface_hub; run: pip install huggingface_hub") from None
    utils.logging.set_verbosity_error()  # the errors below say it in one line
    where = f"hub:{spec}"
    try:
        answers: list[str] = []
        place = _within(TIMEOUT, lambda: _locate(repository, revision, where, answers), lambda: len(answers))
        blobs = os.path.join(_cache_of(repository), "blobs")
        progress = (lambda: _size_of(blobs)) if place.is_steady else time.monotonic
        return _within(TIMEOUT, lambda: _download(repository, revision, place), progress), place.notes
    except InputError:
        raise
    except Exception as error:  # its classes vary by release: requests, httpx, proxy, disk
        refusal = _refusal(error, repository, revision)
        if refusal:
            raise InputError(f"{where}: {refusal}") from None
        reason = _passing_reason(error)
    path, notes = _cached(repository, revision, where, reason)
    return path, [*notes, f"is the copy in the local cache, since {reason}"]


def _within(seconds: float, call: Callable, progress: Callable[[], float]):
    """The result of call(), in a thread that is left alone once `progress` has not changed for that time.

    In a thread, since looking a name up cannot be interrupted.
    """
    outcome = {}

    def run():
        try:
            outcome["result"] = call()
        except Exception as error:
            outcome["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    done, deadline = progress(), time.monotonic() + seconds
    while thread.is_alive() and time.monotonic() < deadline:
        thread.join(min(seconds, 0.2))
        if done != (done := progress()):
            deadline = time.monotonic() + seconds
    if "error" in outcome:
        raise outcome["error"]
    if "result" not in outcome:
        raise _Unreachable(f"the hub gives no answer within {seconds:g} s")
    return outcome["result"]


def _cache_of(repository: str) -> str:
    """The folder of a model in the local cache."""
    from huggingface_hub import constants

    return os.path.join(constants.HF_HUB_CACHE, "models--" + repository.replace("/", "--"))


def _size_of(folder: str) -> int:
    """The bytes of all files in a folder, 0 without one."""
    try:
        return sum(entry.stat().st_size for entry in os.scandir(folder))
    except OSError:
        return 0


def _locate(repository: str, revision: str, where: str, answers: list[str]) -> _Place:
    """Where the weights are. Files that the model does not have go into `answers`; errors are the library's."""
    import huggingface_hub
    from huggingface_hub import utils

    for name in PUBLISHED:
        url = huggingface_hub.hf_hub_url(repository, name, revision=revision)
        try:
            found = huggingface_hub.get_hf_file_metadata(url, timeout=TIMEOUT)
            # The protocol Xet writes large parts at a time, with long pauses.
            return _Place(name, found.commit_hash, [], getattr(found, "xet_file_data", None) is None)
        except utils.EntryNotFoundError:
            answers.append(name)
    info = huggingface_hub.HfApi().model_info(repository, revision=revision, timeout=TIMEOUT)
    name, notes = choose_file([file.rfilename for file in info.siblings or ()], where)
    return _Place(name, info.sha, notes, False)


def _download(repository: str, revision: str, place: _Place) -> str:
    """The path of the weight file, once it, the configs beside it and the shards of an index are in the cache."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    path = try_to_load_from_cache(repository, place.name, revision=place.commit) if place.commit else None
    if not isinstance(path, str):
        path = hf_hub_download(repository, place.name, revision=revision)
    commit = os.path.basename(os.path.dirname(path))
    _download_if_there(repository, CONFIG, commit)
    if is_of_transformers(read_config(os.path.dirname(path))[0]):
        _download_if_there(repository, PROCESSOR, commit)
    if place.name.endswith(".json"):
        for shard in shards_of(open_file(path)) or ():
            hf_hub_download(repository, shard, revision=commit)
    return path


def _download_if_there(repository: str, name: str, commit: str) -> None:
    """Put a file of a repository into the cache, if the repository has it."""
    from huggingface_hub import hf_hub_download, utils

    try:
        hf_hub_download(repository, name, revision=commit)
    except utils.LocalEntryNotFoundError:  # a subclass of EntryNotFoundError: no network, and not in the cache
        raise
    except utils.EntryNotFoundError:
        pass


def _refusal(error: Exception, repository: str, revision: str) -> str | None:
    """What the hub says for good, with the next step; None for what may pass."""
    from huggingface_hub import utils

    if isinstance(error, utils.GatedRepoError):
        return (
            "access to the model is restricted; "
            f"accept its terms at https://huggingface.co/{repository}, then run: hf auth login"
        )
    if isinstance(error, utils.RevisionNotFoundError):
        return f"the model has no revision {revision!r}; check it or leave it out"
    if isinstance(error, utils.RepositoryNotFoundError):
        return "no such model on the hub, or it is private; check the name, or run: hf auth login"
    status = _status(error)
    if status in (401, 403):
        return f"the hub refuses access ({status}), perhaps for an old token; run: hf auth login"
    if status == 404 and not isinstance(error, utils.EntryNotFoundError):
        return "no such model on the hub; check the name"
    if isinstance(error, utils.EntryNotFoundError) and not isinstance(error, utils.LocalEntryNotFoundError):
        return f"a file that its index names is missing on the hub; {_by_hand(repository)}"
    return None


def _passing_reason(error: Exception) -> str:
    """Why the hub does not serve a model now."""
    from huggingface_hub import utils

    status = _status(error)
    if isinstance(error, _Unreachable):
        return str(error)
    if isinstance(error, utils.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if status == 429:
        return "the hub limits how often it is asked (429)"
    if status:
        return f"the hub is out of order ({status})"
    return f"the hub cannot be reached ({printable(error) or type(error).__name__})"


def _status(error: Exception) -> int | None:
    """The HTTP status of an error, None without a response."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _by_hand(repository: str) -> str:
    return f"download the weights by hand from https://huggingface.co/{repository} and pass their path"


def _cached(repository: str, revision: str, where: str, reason: str) -> tuple[str, list[str]]:
    """The weight file of the copy in the local cache, and notes on the choice."""
    model = _cache_of(repository)
    try:
        with open(os.path.join(model, "refs", revision), encoding="ascii") as file:
            commit = os.path.basename(file.read(100))
    except (OSError, ValueError):
        commit = revision
    folder = os.path.join(model, "snapshots", commit)
    try:
        name, notes = choose_file(os.listdir(folder), where)
        return os.path.join(folder, name), notes
    except (OSError, InputError):
        wait = "wait some minutes, or run: hf auth login" if "(429)" in reason else _by_hand(repository)
        raise InputError(f"{where}: {reason}, and the cache has no copy of the model; {wait}") from None
