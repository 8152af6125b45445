"""InternImage: the DCNv3 operator, backbones and classifiers, on any device without a compiler."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .classifier import load
    from .models import create_model, list_models
    from .weights import load_weights

__all__ = ["__version__", "create_model", "list_models", "load", "load_weights", "register_with_timm"]

# What the front door hands out, and the room it comes from: imported at its first use, so that `internimage --help`
# answers before torch is loaded.
_ROOMS = {"create_model": "models", "list_models": "models", "load": "classifier", "load_weights": "weights"}


def register_with_timm() -> list[str]:
    """Make timm know every model, so that ``timm.create_model("internimage_t")`` works; returns their names.

    Raises:
        ImportError: timm is not installed; the message says how to.
    """
    from .timm_registry import register

    return register()


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_ROOMS[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS})
