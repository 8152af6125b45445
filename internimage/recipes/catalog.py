"""All recipes by name, and what their docstrings say of cost and result."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable

from . import imagenet, inaturalist
from .classification import ClassificationRecipe, internimage_femto, own_pictures

RECIPES: dict[str, Callable[[], ClassificationRecipe]] = {
    recipe.__name__: recipe
    for recipe in (
        internimage_femto,
        own_pictures,
        imagenet.internimage_t_1k_224,
        imagenet.internimage_s_1k_224,
        imagenet.internimage_b_1k_224,
        imagenet.internimage_l_22k_192,
        imagenet.internimage_xl_22k_192,
        imagenet.internimage_l_22kto1k_384,
        imagenet.internimage_xl_22kto1k_384,
        imagenet.internimage_h_22kto1k_384,
        imagenet.internimage_h_22kto1k_640,
        imagenet.internimage_g_22kto1k_512,
        imagenet.internimage_t_1k_224_without_lr_decay,
        imagenet.internimage_s_1k_224_without_lr_decay,
        imagenet.internimage_b_1k_224_without_lr_decay,
        imagenet.internimage_l_22kto1k_384_without_lr_decay,
        imagenet.internimage_xl_22kto1k_384_without_lr_decay,
        imagenet.internimage_h_22kto1k_640_without_lr_decay,
        imagenet.internimage_g_22kto1k_512_without_lr_decay,
        inaturalist.internimage_h_22ktoinat18_384,
        imagenet.flash_intern_image_t_1k_224,
        imagenet.flash_intern_image_s_1k_224,
        imagenet.flash_intern_image_b_1k_224,
        imagenet.flash_intern_image_l_22kto1k_384,
    )
}
LABELS = ("Cost", "Published", "Ours")
_LABEL = re.compile(rf"^({'|'.join(LABELS)}): ", re.MULTILINE)


def get_recipe(name: str) -> ClassificationRecipe:
    """A recipe by name; ValueError with the nearest name for unknown ones."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"there is no recipe {name!r}; {hint}`internimage recipes list` shows all {len(RECIPES)}")
    return RECIPES[name]()


def description(name: str) -> str:
    """What the docstring of a recipe says before cost and result, a line a paragraph."""
    return "\n".join(" ".join(part.split()) for part in _LABEL.split(_docstring(name))[0].split("\n\n") if part.strip())


def remarks(name: str) -> dict[str, str]:
    """What the docstring of a recipe says of ``LABELS``, each in one line: {"Cost": "300 epochs x ...", ...}."""
    _, *parts = _LABEL.split(_docstring(name))
    return {label: " ".join(text.split()) for label, text in zip(parts[::2], parts[1::2], strict=True)}


def _docstring(name: str) -> str:
    return inspect.getdoc(RECIPES[name]) or ""
