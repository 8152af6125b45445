"""Packages of others that compute the same: which are here, in which version, and why the rest is not.

A peer that is named must be here; one that is not named is left out, and the tables say why.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Sequence
from importlib import metadata
from types import ModuleType

from .shapes import split_words

ALL, NONE = "all", "none"
MODULES = {
    "torchvision": "torchvision.ops",
    "transformers": "transformers.models.deformable_detr.modeling_deformable_detr",
    "mmcv": "mmcv.ops.multi_scale_deform_attn",
    "deformops": "deformops.registry",
    "dcnv4": "DCNv4.functions",
}
"""What is imported of each."""
_DISTRIBUTIONS = {"dcnv4": ("DCNv4",), "mmcv": ("mmcv", "mmcv-lite", "mmcv-full")}


@functools.cache
def missing(name: str) -> str:
    """Why the peer cannot be imported, or nothing; importing may take seconds."""
    return why_not(MODULES[name])


def why_not(module: str) -> str:
    """Why a module cannot be imported, or nothing."""
    try:
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            return "not installed"
        importlib.import_module(module)
    except Exception as error:  # whatever their import runs into, these are packages of others
        line = (str(error).strip().splitlines() or [""])[0]
        return f"cannot be imported ({type(error).__name__}: {line})"
    return ""


def module(name: str) -> ModuleType:
    """The module of a peer that is here."""
    return importlib.import_module(MODULES[name])


def version(name: str) -> str:
    """Of the package, as its metadata say."""
    for distribution in _DISTRIBUTIONS.get(name, (name,)):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "of unknown version"


def chosen(words: str | None) -> dict[str, str]:
    """The peers that ``words`` ask for: "all", "none", or a comma list of names.

    Returns:
        Each peer of :data:`MODULES`: nothing when it takes part, else why not.

    Raises:
        ValueError: there is no such peer, or a named one cannot be imported.
    """
    names = split_words(words)
    everyone = words is None or names == [ALL]
    if everyone or names == [NONE]:
        return {name: missing(name) if everyone else "not asked for" for name in MODULES}
    _require_known(names, MODULES)
    for name in names:
        if missing(name):
            raise ValueError(f"--peers names {name}: {missing(name)}; --peers all takes those that are here")
    return {name: "" if name in names else "not asked for" for name in MODULES}


def _require_known(names: Sequence[str], known: Sequence[str] | dict[str, str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"--peers {name!r} is not known; expected all, none, or some of {', '.join(known)}")
