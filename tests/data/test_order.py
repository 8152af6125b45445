"""Which pictures a step takes, and in which process."""

from __future__ import annotations

import pytest
import torch

from internimage.data.order import ALONE, EpochOrder, Share


def epoch_of(order: EpochOrder, epoch: int, world_size: int = 1, accumulation: int = 1):
    """Every place of an epoch, by process."""
    first = epoch * order.steps_per_epoch
    shares = [Share(rank, world_size, accumulation) for rank in range(world_size)]
    return [
        [place for batch in order.micro_batches(first, first + order.steps_per_epoch, share) for place in batch]
        for share in shares
    ]


def test_an_epoch_takes_each_picture_once_and_each_epoch_another_order():
    order = EpochOrder(20, 4, seed=7)
    first, second = (epoch_of(order, epoch)[0] for epoch in (0, 1))
    assert sorted(place.picture for place in first) == list(range(20))
    assert [p.picture for p in first] != [p.picture for p in second]
    assert [p.position for p in first] == list(range(20)) and {p.epoch for p in second} == {1}
    assert epoch_of(EpochOrder(20, 4, seed=7), 1)[0] == second
    assert epoch_of(EpochOrder(20, 4, seed=8), 1)[0] != second


def test_what_does_not_fill_a_step_is_left_out_and_differs_by_epoch():
    order = EpochOrder(23, 5, seed=0)
    assert order.steps_per_epoch == 4
    left_out = [set(range(23)) - {place.picture for place in epoch_of(order, epoch)[0]} for epoch in range(4)]
    assert all(len(left) == 3 for left in left_out) and len({tuple(sorted(left)) for left in left_out}) > 1


@pytest.mark.parametrize(("world_size", "accumulation"), [(2, 1), (1, 3), (2, 3)])
def test_a_step_holds_the_same_pictures_however_it_is_cut(world_size, accumulation):
    order = EpochOrder(50, 12, seed=3)
    shares = [Share(rank, world_size, accumulation) for rank in range(world_size)]
    for step in (0, 3, 5, 9):
        whole = order.micro_batch(step, ALONE, 0)
        cut = [order.micro_batch(step, share, micro) for micro in range(accumulation) for share in shares]
        assert sum(cut, []) == whole  # micro-batch a of process r is share a * world_size + r


def test_any_first_step_goes_on_as_if_it_had_begun_at_the_first():
    order, share = EpochOrder(22, 4, seed=1), Share(1, 2, 2)
    batches = list(order.micro_batches(0, 12, share))
    assert list(EpochOrder(22, 4, seed=1).micro_batches(7, 12, share)) == batches[14:]


def test_parts_keep_each_process_to_its_own_pictures():
    order = EpochOrder(25, 8, seed=5, parts=2)
    assert order.steps_per_epoch == 3
    parts = [set(order.part(rank).tolist()) for rank in range(2)]
    assert not parts[0] & parts[1] and len(parts[0]) == len(parts[1]) == 12
    for epoch in (0, 1):
        mine = epoch_of(order, epoch, world_size=2, accumulation=2)
        assert all({place.picture for place in places} == part for places, part in zip(mine, parts, strict=True))
        assert sorted(place.position for places in mine for place in places) == list(range(24))
    assert torch.equal(EpochOrder(4, 2, seed=0).part(0), torch.arange(4))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Share(2, 2), "rank is 2, expected 0 to 1"),
        (lambda: Share(0, 0), "world_size is 0"),
        (lambda: Share(0, 1, 0), "accumulation 0"),
        (lambda: Share(0, 2, 2).micro_batch_size(10), r"multiple of 4 = 2 processes x 2 of accumulation, such as 8"),
        (lambda: EpochOrder(3, 4, 0), "3 pictures do not fill a step of batch_size 4; take 3 or fewer"),
        (lambda: EpochOrder(3, 0, 0), "batch_size is 0"),
        (lambda: EpochOrder(9, 3, 0, parts=2), "a multiple of 2 parts"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
