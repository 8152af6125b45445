"""Downloads: released files from the Hugging Face hub, others from their address; cached, resumed, or offline."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlparse

from . import catalog
from .folder import FOLDER_FILES, read_json
from .report import WeightsError

_FILES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
_HUB_ADDRESS = re.compile(r"https?://[^/]+/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>[^?]+)")
_FOLDER_EXTRAS = ("config.json", "preprocessor_config.json")
_ON = ("1", "on", "true", "yes")


def cache_folder() -> Path:
    """Where downloads are kept: ``INTERNIMAGE_CACHE``, else the cache of huggingface_hub."""
    chosen = os.environ.get("INTERNIMAGE_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in _ON


def download(entry: catalog.Released) -> Path:
    """A released file on this machine, downloaded unless it is cached; a folder for a Hugging Face repository.

    Raises:
        OSError: the network fails, or is needed and HF_HUB_OFFLINE is set; the message says what to do.
        WeightsError: the file lies where it cannot be fetched by a program.
    """
    if entry.repo is not None:
        return download_repository(entry.repo) if entry.file is None else fetch(entry.repo, entry.file)
    if entry.url is None or entry.by_hand:
        where = entry.url or "its authors' storage"
        raise WeightsError(f"{entry.name} must be fetched by hand from {where}; then give its path, not its name")
    return download_address(entry.url)


def download_address(address: str) -> Path:
    """A file by its address. One on the hub goes through the hub's cache; others are kept under their own name.

    A name that ends in ``-<first digits of its SHA-256>``, as torch.hub writes them, is checked against the contents.
    """
    on_hub = _HUB_ADDRESS.fullmatch(address.replace("/blob/", "/resolve/", 1).partition("?")[0])
    if on_hub and _is_hub(address):
        return fetch(on_hub["repo"], unquote(on_hub["file"]), on_hub["revision"])
    name = unquote(Path(urlparse(address).path).name)
    if not name:
        raise WeightsError(f"{address} names no file")
    import torch.hub

    target = cache_folder() / "addresses" / name
    if target.is_file():
        return target
    if offline():
        raise OSError(f"{address} is not in {target.parent} and HF_HUB_OFFLINE is set; {_offline_advice(name)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    digits = torch.hub.HASH_REGEX.search(name)
    try:
        torch.hub.download_url_to_file(address, str(target), digits[1] if digits else None)
    except (OSError, RuntimeError) as error:  # RuntimeError: the SHA-256 is another
        raise OSError(f"could not download {address}: {error}") from error
    return target


def looks_like_repository(name: str) -> bool:
    """Whether ``name`` may be a repository, as ``owner/name``; what ends as files of weights do is a file."""
    if name.endswith(_FILES):
        return False
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not name.startswith((".", "/"))


def download_repository(repo: str) -> Path:
    """The folder with the weights of a Hugging Face repository, whole or in shards, and its ``config.json``."""
    found = next((path for name in FOLDER_FILES if (path := _try_fetch(repo, name)) is not None), None)
    if found is None:
        raise WeightsError(f"the repository {repo} holds none of {', '.join(FOLDER_FILES)}")
    if found.name.endswith(".index.json"):
        for shard in sorted(set(read_json(found).get("weight_map", {}).values())):
            fetch(repo, shard)
    for name in _FOLDER_EXTRAS:
        _try_fetch(repo, name)
    return found.parent


def _try_fetch(repo: str, file: str) -> Path | None:
    """None where the repository has no such file; offline, where the cache has others of it but not this one."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return fetch(repo, file)
    except OSError as error:
        on_hub = isinstance(error.__cause__, EntryNotFoundError) and not isinstance(
            error.__cause__, LocalEntryNotFoundError
        )
        if on_hub or (offline() and _any_cached(repo)):
            return None
        raise


def _any_cached(repo: str) -> bool:
    return (cache_folder() / f"models--{repo.replace('/', '--')}" / "snapshots").is_dir()


def fetch(repo: str, file: str, revision: str | None = None) -> Path:
    """One file of a hub repository, from the cache or the network; a dropped connection is taken up where it broke."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            hf_hub_download(
                repo,
                file,
                revision=revision,
                cache_dir=cache_folder(),
                endpoint=os.environ.get("HF_ENDPOINT") or None,
                local_files_only=offline(),
            )
        )
    except LocalEntryNotFoundError as error:
        if offline():
            reason = f"is not in the cache {cache_folder()} and HF_HUB_OFFLINE is set"
        else:
            reason = "is not in the cache, and the hub cannot be reached"
        raise OSError(f"{repo}/{file} {reason}; {_offline_advice(file)}") from error
    except HfHubHTTPError as error:
        raise OSError(f"could not download {repo}/{file}: {_first_line(error)}") from error
    except (OSError, ValueError):
        raise
    except Exception as error:  # of the HTTP library, which huggingface_hub has changed more than once
        raise OSError(f"could not download {repo}/{file}: {type(error).__name__}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or "no reason given").splitlines()[0]


def _offline_advice(file: str) -> str:
    return f"fetch {file} on a machine with network and give its path, or set INTERNIMAGE_CACHE to a cache that has it"


def _is_hub(address: str) -> bool:
    host = urlparse(address).netloc
    return host in ("huggingface.co", "hf.co", urlparse(os.environ.get("HF_ENDPOINT", "")).netloc)
