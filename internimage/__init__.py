"""InternImage: the DCNv3 operator, backbones and classifiers, on any device without a compiler."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from . import backbones, heads, layers, ops, weights
    from .classifier import load
    from .models import create_model, list_models
    from .weights import load_weights

__all__ = [
    "__version__",
    "backbones",
    "create_model",
    "heads",
    "layers",
    "list_models",
    "load",
    "load_weights",
    "ops",
    "register_with_timm",
    "weights",
]

# What the front door hands out, and the room it comes from: imported at its first use, so that `internimage --help`
# answers before torch is loaded.
_ROOMS = {"create_model": "models", "list_models": "models", "load": "classifier", "load_weights": "weights"}
_PACKAGES = ("backbones", "heads", "layers", "ops", "weights")


def register_with_timm() -> list[str]:
    """Make timm know every model, so that ``timm.create_model("internimage_t")`` works; returns their names.

    Raises:
        ImportError: timm is not installed; the message says how to.
    """
    try:
        import timm  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError("timm is not installed; it comes with `pip install 'internimage-torch[train]'`") from error
    from .timm_registry import register

    return register()


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f".{name}", __name__)
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_ROOMS[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS, *_PACKAGES})
