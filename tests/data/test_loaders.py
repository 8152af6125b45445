"""Batches: the same for any number of workers and from any step; bad pictures; evaluation that counts each once."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from internimage.data.loaders import SkippedPictures, evaluation_batches, training_batches
from internimage.data.mixing import Mixing
from internimage.data.order import EpochOrder, Share
from internimage.data.pictures import PictureError
from tests.data.made_up import MadeUp


def shaken(picture: Image.Image) -> torch.Tensor:
    """(3, 4, 4): the picture's red, and draws from the three generators that augmentation uses."""
    red = picture.getpixel((0, 0))[0]
    drawn = torch.tensor([red, random.random(), np.random.rand()]).float().view(3, 1, 1)
    return drawn + torch.rand(1, 4, 4) * 0.01


def plain(picture: Image.Image) -> torch.Tensor:
    return torch.full((1, 2, 2), float(picture.getpixel((0, 0))[0]))


def train(dataset, first_step=0, last_step=9, batch_size=8, seed=2, parts=1, **how):
    order = EpochOrder(len(dataset), batch_size, seed, parts)
    return list(training_batches(dataset, order, shaken, first_step=first_step, last_step=last_step, **how))


def equal(ours, theirs) -> bool:
    return len(ours) == len(theirs) and all(
        torch.equal(a, b) for pair in zip(ours, theirs, strict=True) for a, b in zip(*pair, strict=True)
    )


def test_batches_do_not_depend_on_the_number_of_workers():
    wanted = train(MadeUp(30, broken=(4, 5, 17)))
    assert len(wanted) == 9 and wanted[0][0].shape == (8, 3, 4, 4) and wanted[0][1].dtype == torch.int64
    for workers in (1, 2, 3):
        assert equal(train(MadeUp(30, broken=(4, 5, 17)), workers=workers), wanted)


def test_batches_do_not_depend_on_the_first_step():
    share, mixing = Share(1, 2, 2), Mixing(3, seed=5)
    wanted = train(MadeUp(30), share=share, mixing=mixing)
    assert len(wanted) == 18
    torch.rand(3), random.random(), np.random.rand()  # nothing else that draws may matter
    assert equal(train(MadeUp(30), first_step=5, share=share, mixing=mixing, workers=2), wanted[10:])


def test_processes_and_accumulation_cut_the_same_pictures():
    whole = train(MadeUp(30), last_step=4)
    cut = [train(MadeUp(30), last_step=4, share=Share(rank, 2, 2)) for rank in range(2)]
    for step, (images, labels) in enumerate(whole):
        pieces = [cut[rank][2 * step + micro] for micro in range(2) for rank in range(2)]
        assert torch.equal(torch.cat([piece[0] for piece in pieces]), images)
        assert torch.equal(torch.cat([piece[1] for piece in pieces]), labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_generators_of_the_main_process_are_left_alone(workers):
    before = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    train(MadeUp(30), workers=workers, last_step=2, mixing=Mixing(3))
    assert torch.equal(torch.random.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])


def test_a_picture_is_changed_in_another_way_each_epoch():
    epochs = [images[:, :2, 0, 0].round(decimals=2).tolist() for images, _ in train(MadeUp(8), last_step=2)]
    draws = [{int(red): draw for red, draw in images} for images in epochs]
    assert draws[0].keys() == draws[1].keys() and all(draws[0][red] != draws[1][red] for red in draws[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_picture_is_replaced_by_the_next_one_named_and_counted(workers):
    skipped = SkippedPictures()
    batches = train(MadeUp(8, broken=(2, 3)), last_step=3, workers=workers, skipped=skipped)
    for images, labels in batches:
        reds = images[:, 0, 0, 0].int().tolist()
        assert sorted(reds) == [0, 1, 4, 4, 4, 5, 6, 7]
        assert [red % 3 for red in reds] == labels.tolist()
    assert skipped.count == 9 and skipped.reasons == {"picture 2: broken": 3, "picture 3: broken": 6}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_picture_stops_the_run_where_that_is_asked_for(workers):
    with pytest.raises(PictureError, match="^picture 2: broken$"):
        train(MadeUp(8, broken=(2,)), bad="raise", workers=workers)


def test_too_many_bad_pictures_in_a_row_stop_the_run():
    with pytest.raises(PictureError, match="50 pictures in a row cannot be read, the last one picture"):
        train(MadeUp(60, broken=tuple(range(1, 58))))
    with pytest.raises(PictureError, match="50 pictures in a row"):
        train(MadeUp(8, broken=tuple(range(8))))


def test_extras_stand_beside_the_images():
    (images, temporal, spatial), labels = train(MadeUp(9, extras=True), last_step=1)[0]
    assert temporal.shape == (8, 2) and spatial.shape == (8, 3)
    assert torch.equal(temporal[:, 0].int(), images[:, 0, 0, 0].int()) and torch.equal(temporal[:, 0], spatial[:, 1])
    mixed, targets = train(MadeUp(9, extras=True), last_step=1, mixing=Mixing(3))[0]
    assert len(mixed) == 3 and targets.shape == (8, 3)


@pytest.mark.parametrize(("world_size", "workers"), [(1, 0), (2, 0), (3, 0), (20, 0), (1, 2), (3, 2)])
def test_evaluation_counts_each_picture_once(world_size, workers):
    counted, lengths = [], set()
    for rank in range(world_size):
        share = Share(rank, world_size)
        batches = evaluation_batches(MadeUp(17), plain, batch_size=4, share=share, workers=workers)
        seen = list(batches)
        lengths.add(len(seen))
        assert len(batches) == len(seen)
        for inputs, labels, indices in seen:
            real = labels >= 0
            assert torch.equal(inputs[:, 0, 0, 0].long() * real, indices * real) and torch.equal(indices >= 0, real)
            assert not inputs[~real].any()
            assert torch.equal(labels[real], indices[real] % 3)
            counted += indices[real].tolist()
    assert sorted(counted) == list(range(17)) and len(lengths) == 1


def test_evaluation_may_be_repeated_and_begun_later():
    skipped = SkippedPictures()
    batches = evaluation_batches(MadeUp(10, broken=(1, 9)), plain, batch_size=4, workers=1, skipped=skipped)
    first, second = list(batches), list(batches)
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(first, second, strict=True))
    assert [batch.labels.tolist() for batch in first] == [[0, -1, 2, 0], [1, 2, 0, 1], [2, -1]]
    assert [batch.indices.tolist() for batch in first] == [[0, -1, 2, 3], [4, 5, 6, 7], [8, -1]]
    assert skipped.reasons == {"picture 1: broken": 2, "picture 9: broken": 2}
    later = evaluation_batches(MadeUp(10), plain, batch_size=4, first_batch=2)
    assert len(later) == 1 and next(iter(later)).indices.tolist() == [8, 9]


def test_evaluation_pads_extras_too():
    batches = evaluation_batches(MadeUp(3, extras=True), plain, batch_size=4, share=Share(1, 2))
    (images, temporal, spatial), labels, _ = next(iter(batches))
    assert labels.tolist() == [1, -1] and temporal.shape == (2, 2) and not spatial[1].any() and len(images) == 2


def test_evaluation_stops_at_a_bad_picture_where_that_is_asked_for():
    with pytest.raises(PictureError, match="picture 1: broken"):
        list(evaluation_batches(MadeUp(3, broken=(1,)), plain, batch_size=2, bad="raise"))


def test_a_run_that_is_left_in_the_middle_ends_its_workers():
    order = EpochOrder(30, 8, 0)
    batches = training_batches(MadeUp(30), order, shaken, last_step=300, workers=2)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert not multiprocessing.active_children()


def test_workers_outlive_a_signal_to_the_whole_group():
    order = EpochOrder(30, 8, 0)
    batches = training_batches(MadeUp(30), order, shaken, last_step=12, workers=2)
    next(batches), next(batches)  # one of each worker: both have begun
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGINT)
        os.kill(child.pid, signal.SIGTERM)
    assert len(list(batches)) == 10


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"bad": "ignore"}, "bad is 'ignore', expected 'skip' or 'raise'"),
        ({"share": Share(0, 3)}, "batch_size is 8, expected a multiple of 3"),
        ({"share": Share(0, 8), "mixing": Mixing(3)}, "a micro-batch of 1 pictures cannot be mixed"),
        ({"parts": 2}, "the order has 2 parts, expected 1 or as many as processes, 1"),
        ({"workers": -1}, "workers is -1"),
    ],
)
def test_what_cannot_be_is_refused(how, words):
    with pytest.raises(ValueError, match=words):
        train(MadeUp(30), **how)


def test_evaluation_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="there are no pictures"):
        evaluation_batches(MadeUp(0), plain, batch_size=2)
    with pytest.raises(ValueError, match="batch_size is 0"):
        evaluation_batches(MadeUp(3), plain, batch_size=0)
