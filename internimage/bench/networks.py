"""The networks that are timed: ours, the same with another operator inside, and those of timm."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from ..layers import DCNv3, DCNv4, deform_conv
from ..layers import dcnv4 as dcnv4_layer
from ..models import create_model
from .labels import FREE, ON_GRID_SAMPLE, PEERS, VARIANTS
from .shapes import split_words

_CORES = tuple(
    (module, name)
    for module in (deform_conv, dcnv4_layer)
    for name in ("dcnv3_from_logits", "dcnv4_on_maps")
    if hasattr(module, name)
)
"""Where the layers call their operators; :func:`.model.gate` notices when there is another place."""


@dataclass(frozen=True)
class Network:
    """A module, its label in the tables, and what must be around its runs; ``model`` is None for those of timm."""

    label: str
    module: nn.Module
    around: Callable[[], AbstractContextManager] = nullcontext
    model: str | None = None
    variant: str | None = None


def make(model: str, features_only: bool, variants: tuple[str, ...] = VARIANTS) -> list[Network]:
    """Our network, and the same with another operator inside; all share one module."""
    torch.manual_seed(0)
    module = create_model(model, features_only=features_only).eval()
    scatter(module)
    networks = [Network(model, module, nullcontext, model)]
    return networks + [Network(f"{model} {name}", module, _around(name), model, name) for name in variants]


def make_peer(name: str, features_only: bool, size: tuple[int, int]) -> Network:
    """A network of timm with random weights.

    Raises:
        ValueError: timm knows no such model, or it does not take images of this size.
    """
    import timm

    torch.manual_seed(0)
    try:
        module = timm.create_model(name, features_only=features_only)
    except RuntimeError as error:
        raise ValueError(f"--peers {name!r} is no model of timm ({error}); its names: timm.list_models()") from error
    if getattr(getattr(module, "patch_embed", None), "strict_img_size", False) or hasattr(module, "patch_embed"):
        module = timm.create_model(name, features_only=features_only, img_size=size)
    return Network(name, module.eval())


def chosen_peers(words: str | None) -> tuple[str, ...]:
    """Names of timm models: those of :data:`PEERS` for "all" or nothing, none for "none", else a comma list.

    Raises:
        ValueError: models are named that timm does not know, or timm is not installed.
    """
    names = split_words(words)
    if names == ["none"]:
        return ()
    here = importlib.util.find_spec("timm") is not None
    if words is None or names == ["all"]:
        return PEERS if here else ()
    if not here:
        raise ValueError(f"--peers names {', '.join(names)}, which need timm, not installed here: pip install timm")
    import timm

    for name in names:
        if not timm.is_model(name):
            raise ValueError(
                f"--peers {name!r} is no model of timm; expected all, none, or names of timm.list_models()"
            )
    return tuple(names)


def scatter(model: nn.Module) -> None:
    """Let the network sample as scattered as trained ones do, not at the regular taps it starts with.

    Offsets get a constant of two pixels standard deviation for each tap and about one pixel that changes from place to
    place; masks change too.
    """
    for module in model.modules():
        if isinstance(module, DCNv3):
            # the features that offsets are made of, GELU of a LayerNorm, have a mean square of 0.43
            nn.init.normal_(module.offset.weight, std=(0.43 * module.channels) ** -0.5)
            nn.init.normal_(module.offset.bias, std=2.0)
            nn.init.normal_(module.mask.weight, std=(0.43 * module.channels) ** -0.5)
        if isinstance(module, DCNv4):
            _scatter_packed(module)


@torch.no_grad()
def _scatter_packed(module: DCNv4) -> None:
    """Offsets as above, from a normalised map; masks of either sign that vary about as much as their mean, 1/P."""
    groups, taps = module.geometry.groups, module.geometry.taps
    used = 3 * groups * taps
    weight = module.offset_mask.weight[:used].view(groups, 3 * taps, -1)
    bias = module.offset_mask.bias[:used].view(groups, 3 * taps)
    weight.normal_(std=module.channels**-0.5)
    weight[:, 2 * taps :] /= taps
    bias[:, : 2 * taps].normal_(std=2.0)
    bias[:, 2 * taps :] = 1 / taps


Replacement = Callable[..., Tensor]


@contextmanager
def operator(replacement: Replacement) -> Iterator[list[int]]:
    """Every DCNv3 and DCNv4 layer calls ``replacement(original, *its arguments)`` for its core; nothing else changes.

    Yields a list that has one entry for each call that was made.
    """
    made: list[int] = []

    def counted(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: Any, **kwargs: Any) -> Tensor:
            made.append(1)
            return replacement(original, *args, **kwargs)

        return call

    with ExitStack() as stack:
        for module, name in _CORES:
            stack.enter_context(mock.patch.object(module, name, counted(getattr(module, name))))
        yield made


def on(backend: str) -> Replacement:
    """The core on a backend."""

    def run(original: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        call = inspect.signature(original).bind(*args, **kwargs)
        call.arguments["backend"] = backend
        return original(*call.args, **call.kwargs)

    return run


def free(original: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A core that costs nothing: its input, which has the shape of its output here."""
    return input


def _around(variant: str) -> Callable[[], AbstractContextManager]:
    replacement = {ON_GRID_SAMPLE: on("grid_sample"), FREE: free}[variant]
    return lambda: operator(replacement)


def cores(model: nn.Module) -> int:
    """Layers of the network that run a deformable operator."""
    return sum(isinstance(module, (DCNv3, DCNv4)) for module in model.modules())
