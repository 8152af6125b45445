"""Class names are in class order."""

from __future__ import annotations

from internimage.data.labels import class_names, imagenet_22k
from internimage.weights import IMAGENET_1K_IN_22K


def test_imagenet_1k():
    names = class_names(1000)
    assert len(names) == 1000
    assert (names[0], names[207], names[999]) == ("tench", "golden retriever", "toilet tissue")


def test_imagenet_22k_is_sorted_by_wordnet_id():
    names, ids = class_names(21841), list(imagenet_22k())
    assert len(names) == len(set(ids)) == 21841 and ids == sorted(ids)
    assert (ids[0], names[0]) == ("n00004475", "organism, being")


def test_both_lists_mean_the_same_classes():
    small, large = class_names(1000), class_names(21841)
    same = sum(
        small[c].lower().split(" (")[0] in large[i].lower() or large[i].split(",")[0].lower() in small[c].lower()
        for c, i in enumerate(IMAGENET_1K_IN_22K)
    )
    assert same > 900, "the two lists spell some names differently, not most of them"


def test_other_numbers_of_classes_are_numbered():
    assert class_names(3) == ("class 0", "class 1", "class 2")
