"""How the classes of a data set meet the outputs of a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.labels import imagenet_1k_names, imagenet_22k, imagenet_22k_names
from ..weights.imagenet_22k import IMAGENET_1K_IN_22K, imagenet_1k_ids

_WORDNET_ID = re.compile(r"n\d{8}")


@dataclass(frozen=True, kw_only=True)
class ClassMatch:
    """Which outputs of a model compete, what they are called, and which of them each class of the data is.

    Attributes:
        names: of the outputs that compete.
        labels: of each class of the data, its position in ``names``.
        outputs: positions of these outputs in the logits; None for all of them.
        how: "name", "WordNet id" or "order".
    """

    names: tuple[str, ...]
    labels: tuple[int, ...]
    outputs: tuple[int, ...] | None = None
    how: str = "name"

    def of(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The logits (n, outputs) that compete, and labels (n,) of the data as positions among them."""
        if self.outputs is not None:
            logits = logits[:, torch.tensor(self.outputs, device=logits.device)]
        return logits, torch.tensor(self.labels, device=labels.device)[labels]

    def remarks(self, class_names: Sequence[str]) -> list[str]:
        """What a person might not expect; ``class_names`` are those of the data."""
        said = []
        if self.outputs is not None:
            said.append(f"{len(self.outputs):,} outputs of ImageNet-22K answer for the classes of ImageNet-1K")
        if self.how == "order":
            first, last = (f"{class_names[i]} is {self.names[self.labels[i]]}" for i in (0, -1))
            said.append(f"no class has a name that the model knows; taken by order: {first} ... {last}")
        return said


def match_outputs(names: Sequence[str], known: Sequence[str]) -> ClassMatch:
    """How the classes ``names`` of the data meet a model that knows ``known``.

    Names are compared first, in either case of letters. A model of ImageNet, which knows words, also takes WordNet ids,
    as the folders of ImageNet are called; some of the ids are enough. A head of ImageNet-22K on classes of ImageNet-1K
    is cut down to those 1000 outputs, as the released evaluation does. What is left goes by order, where there are as
    many classes here as there.

    Raises:
        ValueError: nothing of this fits.
    """
    names, known = tuple(names), tuple(known)
    # classes of ImageNet-22K share names, which only their order tells apart
    found = tuple(range(len(known))) if names == known else _by_name(names, known)
    if found is not None:
        return ClassMatch(names=known, labels=found)
    if known == imagenet_1k_names():
        found, how = _among_1k(names)
        if found is not None:
            return ClassMatch(names=known, labels=found, how=how)
    if known == imagenet_22k_names():
        match = _with_22k(names)
        if match is not None:
            return match
    of_imagenet = known in (imagenet_1k_names(), imagenet_22k_names()) and all(map(_WORDNET_ID.fullmatch, names))
    if _no_name_in_common(names, known) and not of_imagenet:
        return ClassMatch(names=known, labels=tuple(range(len(names))), how="order")
    words = {name.casefold() for name in (*known, *(imagenet_1k_ids() if of_imagenet else ()))}
    missing = [name for name in names if name.casefold() not in words]
    raise ValueError(
        f"the model does not know {len(missing)} of the {len(names)} classes of the data, such as {missing[0]!r}; it "
        f"knows {len(known)}: {', '.join(known[:6])}{' ...' if len(known) > 6 else ''}"
    )


def match_part(names: Sequence[str], class_names: Sequence[str]) -> ClassMatch:
    """How the classes of a part that is measured on meet those that are trained on; 22K may be called by WordNet ids.

    Raises:
        ValueError: see :func:`match_outputs`.
    """
    return match_outputs(names, imagenet_22k_names() if is_imagenet_22k(class_names) else class_names)


def is_imagenet_22k(class_names: Sequence[str]) -> bool:
    """Whether these are its 21,841 classes, by name or by WordNet id."""
    return tuple(class_names) in (imagenet_22k_names(), tuple(imagenet_22k()))


def match_classes(names: tuple[str, ...], known: tuple[str, ...]) -> list[int]:
    """The classifier's number of each class of the data; see :func:`match_outputs`, which also cuts down heads."""
    return list(match_outputs(names, known).labels)


def _by_name(names: tuple[str, ...], known: tuple[str, ...]) -> tuple[int, ...] | None:
    """Positions of ``names`` in ``known``; None unless all of them are there."""
    position = {name.casefold(): number for number, name in enumerate(known)}
    position |= {name: number for number, name in enumerate(known)}  # ImageNet has a Cardigan, a dog, and a cardigan
    found = [position.get(name, position.get(name.casefold())) for name in names]
    return None if None in found else tuple(number for number in found if number is not None)


def _among_1k(names: tuple[str, ...]) -> tuple[tuple[int, ...] | None, str]:
    """Positions among the 1000 classes of ImageNet-1K by WordNet id, name or order, and by which."""
    if all(_WORDNET_ID.fullmatch(name) for name in names):
        return _by_name(names, imagenet_1k_ids()), "WordNet id"
    found = _by_name(names, imagenet_1k_names())
    if found is None:
        found = _by_synonyms(names)
    if found is None and _no_name_in_common(names, imagenet_1k_names()):
        return tuple(range(1000)), "order"
    return found, "name"


def _by_synonyms(names: tuple[str, ...]) -> tuple[int, ...] | None:
    """Positions of classes called by all their words, "tench, Tinca tinca", as lists that come with ImageNet do.

    Such lists differ in a few words; all thousand of them are taken by order where nine in ten are as expected.
    """
    words = imagenet_22k_names()
    known = tuple(words[number] for number in IMAGENET_1K_IN_22K)
    alike = sum(mine == theirs for mine, theirs in zip(names, known, strict=False))
    if len(names) == len(known) and alike > 0.9 * len(known):
        return tuple(range(len(known)))
    return _by_name(names, known)


def _with_22k(names: tuple[str, ...]) -> ClassMatch | None:
    """For a head of ImageNet-22K: cut down to the 1000 classes where these hold all of the data's, else whole."""
    found, how = _among_1k(names)
    if found is not None:
        return ClassMatch(names=imagenet_1k_names(), labels=found, outputs=IMAGENET_1K_IN_22K, how=how)
    ids = {wordnet_id: number for number, wordnet_id in enumerate(imagenet_22k())}
    if all(name in ids for name in names):
        return ClassMatch(names=imagenet_22k_names(), labels=tuple(ids[name] for name in names), how="WordNet id")
    return None


def _no_name_in_common(names: tuple[str, ...], known: tuple[str, ...]) -> bool:
    """Whether there are as many classes here as there, and not one name in both."""
    return len(names) == len(known) and not {n.casefold() for n in names} & {n.casefold() for n in known}
