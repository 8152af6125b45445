"""Recipes changed by ``key=value`` texts, and two recipes compared."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from ..backbones.config import InternImageConfig
from .training import TrainingRecipe

Recipe = TypeVar("Recipe", bound=TrainingRecipe)

_IDENTITY = ("name", "parent", "released")  # what a recipe is called, not what it does
_NONE = ("none", "null")
_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_OF_MODEL = "model_changes"
_OTHER_WORDS = {  # for what people may know by another name; what is near by letters needs none
    "learning_rate": "lr", "wd": "weight_decay", "bs": "batch_size", "batch": "batch_size", "ema": "ema_decay",
    "augment": "augmentation", "img_size": "image_sizes", "size": "image_sizes", "resolution": "image_sizes",
    "warmup": "warmup_epochs", "scheduler": "schedule", "opt": "optimizer", "amp": "dtype", "precision": "dtype",
    "smoothing": "label_smoothing", "drop_path": "drop_path_rate", "clip": "clip_grad",
    "checkpointing": "grad_checkpointing",
}  # fmt: skip
_UNUSED = {"files": "augmentation", "memory": "transform"}  # how pictures are changed, which a source has no use for


class Difference(NamedTuple):
    """A field, and its value in each of two recipes; None too where one has no such field."""

    key: str
    left: Any
    right: Any


def override(recipe: Recipe, texts: Iterable[str]) -> Recipe:
    """The recipe with fields set as in ``--set key=value``, all at once.

    A value is read by the type of its field: ``lr=1e-4``, ``crop=no``, ``clip_grad=none``, ``image_sizes=128,160``.
    Fields inside a field go by a dot: ``mixing.mixup=0.2``, ``model_changes.depths=2,2,4,2``. With another ``source``
    pictures are changed in its way: what the old one had for this is put back to its default.

    Raises:
        ValueError: no such key (the message names the nearest), no value of its type, or one that the recipe refuses.
    """
    changes: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    types_by_key = _types(type(recipe))
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ValueError(f"--set {text!r} is no override, expected key=value, such as lr=1e-4")
        _check_key(key, types_by_key)
        parsed = _parse(value.strip(), types_by_key[key], key)
        outer, dot, field = key.partition(".")
        if dot:
            inner.setdefault(outer, {})[field] = parsed
        else:
            changes[key] = parsed
    for outer, values in inner.items():
        old = getattr(recipe, outer)
        changes[outer] = {**old, **values} if isinstance(old, dict) else dataclasses.replace(old, **values)
    unused = _UNUSED.get(changes.get("source", ""))
    if unused and unused not in changes:
        changes[unused] = type(getattr(recipe, unused))()
    return dataclasses.replace(recipe, **changes)


def differences(left: TrainingRecipe, right: TrainingRecipe) -> list[Difference]:
    """The fields, inner ones too, in which two recipes differ; their names, parents and released files do not count."""
    ours, theirs = flat(left), flat(right)
    keys = [key for key in dict.fromkeys([*ours, *theirs]) if key not in _IDENTITY]
    return [Difference(key, ours.get(key), theirs.get(key)) for key in keys if ours.get(key) != theirs.get(key)]


def flat(recipe: TrainingRecipe) -> dict[str, Any]:
    """All fields by key, inner ones behind a dot, in the order of their definition."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if dataclasses.is_dataclass(value) or isinstance(value, dict):
            inside = value if isinstance(value, dict) else vars(value)
            values.update({f"{field.name}.{name}": inner for name, inner in inside.items()})
        else:
            values[field.name] = value
    return values


def _types(recipe: type[TrainingRecipe]) -> dict[str, Any]:
    """The type of each key that can be set."""
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(recipe).items():
        inside = InternImageConfig if name == _OF_MODEL else hint
        if dataclasses.is_dataclass(inside):
            found.update({f"{name}.{inner}": kind for inner, kind in typing.get_type_hints(inside).items()})
        else:
            found[name] = hint
    return found


def _check_key(key: str, known: Mapping[str, Any]) -> None:
    if key in known:
        return
    inside = [name for name in known if name.startswith(f"{key}.")]
    if inside:
        raise ValueError(f"{key} has fields of its own; set one of {', '.join(inside)}")
    key_before, key = key, _OTHER_WORDS.get(key.lower(), key.lower())
    by_last_part = {name.rpartition(".")[2]: name for name in reversed(list(known))}  # plain names win
    if key in known or any(name.startswith(f"{key}.") for name in known):
        near = [key]
    else:
        near = difflib.get_close_matches(key, known, n=1) or [
            by_last_part[word] for word in difflib.get_close_matches(key.rpartition(".")[2], by_last_part, n=1)
        ]
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"recipes have no {key_before!r}{hint}; `internimage recipes show NAME` lists all keys")


def _parse(text: str, kind: Any, key: str) -> Any:
    """The value of a text by a type of the kinds that recipes have."""
    try:
        return _value(text, kind)
    except ValueError:
        raise ValueError(f"{key}={text} does not fit: expected {_words(kind)}") from None


def _value(text: str, kind: Any) -> Any:
    if _is_union(kind):
        options = [option for option in typing.get_args(kind) if option is not type(None)]
        return None if text.lower() in _NONE else _value(text, options[0])
    if typing.get_origin(kind) is tuple:
        return _tuple(text, typing.get_args(kind))
    if kind is bool:
        if text.lower() not in _FLAGS:
            raise ValueError(text)
        return _FLAGS[text.lower()]
    return kind(text)


def _tuple(text: str, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    parts = [part.strip() for part in text.strip("()[] ").split(",") if part.strip()]
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(parts)
    if len(parts) != len(kinds):
        raise ValueError(text)
    return tuple(_value(part, kind) for part, kind in zip(parts, kinds, strict=True))


def _words(kind: Any) -> str:
    if _is_union(kind):
        first = next(option for option in typing.get_args(kind) if option is not type(None))
        return f"{_words(first)}, or none"
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        count = "values" if kinds[-1] is Ellipsis else f"{len(kinds)} values"
        return f"{count} between commas, each {_words(kinds[0])}"
    return {bool: "true or false", int: "an integer", float: "a number", str: "a text"}[kind]


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)
