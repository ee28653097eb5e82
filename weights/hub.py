"""Models on the Hugging Face hub, by name. Only this file imports huggingface_hub, an extra, and only when called."""

from __future__ import annotations

import re

from ..errors import InputError, printable

FILES = ("model.safetensors", "pytorch_model.bin")


def hub_file(spec: str) -> str:
    """The path of a model's weight file in the local hub cache; the file is downloaded if it is not there.

    spec: "owner/name" or "owner/name@revision". The file is model.safetensors if the repository has one, else
    pytorch_model.bin. Raises InputError if the name is malformed, the extra is not installed, the model does not
    exist, or the network fails and the cache has no copy.
    """
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", spec, flags=re.ASCII)
    if not match:
        raise InputError(f"hub:{printable(spec)}: not a model name; write hub:owner/name or hub:owner/name@revision")
    repository, revision = match.groups()
    try:
        import huggingface_hub
        from huggingface_hub import utils
    except ImportError:
        raise InputError(f"hub:{spec}: needs huggingface_hub; run: pip install huggingface_hub") from None
    utils.logging.set_verbosity_error()  # the errors below say it in one line
    offline = False
    for name in FILES:
        try:
            return huggingface_hub.hf_hub_download(repository, name, revision=revision, local_files_only=offline)
        except utils.LocalEntryNotFoundError:  # a subclass of EntryNotFoundError: no network, and not in the cache
            offline = True
        except utils.EntryNotFoundError:
            pass
        except utils.GatedRepoError:
            advice = f"accept its terms at https://huggingface.co/{repository}, then run: hf auth login"
            raise InputError(f"hub:{spec}: access to the model is restricted; {advice}") from None
        except utils.RepositoryNotFoundError:
            raise InputError(f"hub:{spec}: no such model on the hub, or it is private; check the name") from None
        except utils.RevisionNotFoundError:
            raise InputError(f"hub:{spec}: the model has no revision {revision!r}; check it or leave it out") from None
        except Exception as error:  # its classes vary by release: requests, httpx, proxy, disk
            raise InputError(_by_hand(spec, repository, printable(error) or type(error).__name__)) from None
    if offline:
        raise InputError(_by_hand(spec, repository, "the network is unreachable and the file is not in the cache"))
    raise InputError(f"hub:{spec}: has neither {FILES[0]} nor {FILES[1]}; download its weights and pass their path")


def _by_hand(spec: str, repository: str, reason: str) -> str:
    url = f"https://huggingface.co/{repository}"
    return f"hub:{spec}: cannot be downloaded ({reason}); download {FILES[0]} by hand from {url} and pass its path"
