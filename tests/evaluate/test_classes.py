"""Which outputs of a model the classes of a data set are."""

from __future__ import annotations

import pytest

from internimage.data.labels import imagenet_1k_names, imagenet_22k, imagenet_22k_names
from internimage.evaluate.classes import match_outputs
from internimage.weights.imagenet_22k import IMAGENET_1K_IN_22K, imagenet_1k_ids

IDS, NAMES, NAMES_22K = imagenet_1k_ids(), imagenet_1k_names(), imagenet_22k_names()


def test_the_1000_ids_are_sorted_and_those_of_the_map():
    assert len(set(IDS)) == 1000 and list(IDS) == sorted(IDS) and IDS[0] == "n01440764" and IDS[850] == "n04399382"
    ids = tuple(imagenet_22k())
    assert [c for c in range(1000) if ids[IMAGENET_1K_IN_22K[c]] != IDS[c]] == [850]


def test_folders_of_imagenet_are_known_by_their_ids_all_or_some_of_them():
    whole = match_outputs(IDS, NAMES)
    assert whole.labels == tuple(range(1000)) and whole.outputs is None and whole.how == "WordNet id"
    some = match_outputs((IDS[217], IDS[0]), NAMES)
    assert some.labels == (217, 0) and some.names == NAMES


def test_a_dog_is_no_jacket():
    assert (NAMES[264], NAMES[474]) == ("Cardigan", "cardigan")
    assert match_outputs(NAMES, NAMES).labels == tuple(range(1000))
    assert match_outputs(("cardigan", "Cardigan", "TENCH"), NAMES).labels == (474, 264, 0)


@pytest.mark.parametrize("names", [IDS, NAMES, tuple(map(str, range(1000)))], ids=["ids", "names", "numbers"])
def test_a_head_of_22k_answers_for_1k_with_its_1000_outputs(names):
    match = match_outputs(names, NAMES_22K)
    assert match.outputs == IMAGENET_1K_IN_22K and match.names == NAMES and match.labels == tuple(range(1000))


def test_a_head_of_22k_answers_whole_for_other_classes_of_22k():
    ids = tuple(imagenet_22k())
    match = match_outputs((ids[1], IDS[0]), NAMES_22K)
    assert match.outputs is None and match.labels == (1, IMAGENET_1K_IN_22K[0]) and match.names == NAMES_22K


def test_classes_that_share_a_name_are_told_apart_by_order():
    assert len(set(NAMES_22K)) < len(NAMES_22K)
    assert match_outputs(NAMES_22K, NAMES_22K).labels == tuple(range(21841))


def test_classes_called_by_all_their_words():
    words = [NAMES_22K[number] for number in IMAGENET_1K_IN_22K]
    words[850] = "teddy, teddy bear"
    assert words[0] == "tench, Tinca tinca"
    assert match_outputs(words, NAMES).labels == tuple(range(1000))
    assert match_outputs(words, NAMES_22K).outputs == IMAGENET_1K_IN_22K
    assert match_outputs((words[7], words[0]), NAMES).labels == (7, 0)


def test_ids_that_are_no_classes_of_the_model_are_refused_and_not_taken_by_order():
    strange = (*IDS[:999], "n99999999")
    with pytest.raises(ValueError, match="does not know 1 of the 1000 classes of the data, such as 'n99999999'"):
        match_outputs(strange, NAMES)
    with pytest.raises(ValueError, match="does not know"):
        match_outputs(strange, NAMES_22K)


def test_names_of_either_case_and_order_as_the_last_resort():
    assert match_outputs(("B", "a"), ("a", "b", "c")).labels == (1, 0)
    by_order = match_outputs(("x", "y"), ("a", "b"))
    assert by_order.labels == (0, 1) and by_order.how == "order"
    (remark,) = by_order.remarks(("x", "y"))
    assert remark == "no class has a name that the model knows; taken by order: x is a ... y is b"
    assert match_outputs(("a", "b"), ("a", "b")).remarks(("a", "b")) == []
    with pytest.raises(ValueError, match="does not know 1 of the 2 classes of the data, such as 'y'"):
        match_outputs(("a", "y"), ("a", "b"))
