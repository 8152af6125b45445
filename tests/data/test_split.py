"""Dividing pictures by class."""

from __future__ import annotations

import pytest
import torch

from internimage.data.split import stratified_split

LABELS = torch.tensor([0] * 10 + [1] * 5 + [2] * 2 + [3])


def test_each_class_is_divided_alike_and_nothing_is_lost():
    first, second = stratified_split(LABELS, 0.2)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(18))
    assert LABELS[second].bincount(minlength=4).tolist() == [2, 1, 1, 0]  # the only picture of a class is learned from
    assert LABELS[first].bincount(minlength=4).tolist() == [8, 4, 1, 1]


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_no_class_is_left_without_a_picture_on_either_side(share):
    first, second = stratified_split(LABELS, share)
    assert set(LABELS[first].tolist()) == {0, 1, 2, 3} and set(LABELS[second].tolist()) == {0, 1, 2}


def test_the_seed_alone_decides():
    assert torch.equal(stratified_split(LABELS, 0.5, 7)[1], stratified_split(LABELS, 0.5, 7)[1])
    assert not torch.equal(stratified_split(LABELS, 0.5, 7)[1], stratified_split(LABELS, 0.5, 8)[1])


def test_none_held_out_and_shares_that_mean_nothing():
    first, second = stratified_split(LABELS, 0.0)
    assert len(first) == 18 and len(second) == 0
    for share in (1.0, -0.1):
        with pytest.raises(ValueError, match=f"the share held out is {share}, expected 0 to below 1"):
            stratified_split(LABELS, share)
