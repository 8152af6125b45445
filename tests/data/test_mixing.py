"""Mixup and CutMix, seeded by batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from internimage.data.mixing import Mixing


def batch(count: int = 6):
    images = torch.arange(count).float().view(-1, 1, 1, 1).expand(-1, 3, 16, 16).contiguous()
    return images, torch.arange(count) % 4


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_the_same_step_and_share_mix_in_the_same_way(mode):
    mixing = Mixing(4, mode=mode, seed=3)
    state = np.random.get_state()[1].copy()
    runs = {key: mixing(*batch(), step=key[0], share=key[1]) for key in [(0, 0), (1, 0), (0, 1)]}
    again = Mixing(4, mode=mode, seed=3)(*batch(), step=1, share=0)
    assert torch.equal(again[0], runs[1, 0][0]) and torch.equal(again[1], runs[1, 0][1])
    assert not torch.equal(runs[0, 0][1], runs[0, 1][1]) and not torch.equal(runs[0, 0][1], runs[1, 0][1])
    assert np.array_equal(np.random.get_state()[1], state)


def test_targets_follow_what_is_in_the_pictures():
    mixing = Mixing(6, mixup=0.0, cutmix=1.0, label_smoothing=0.0)
    images, targets = mixing(*(batch()[0], torch.arange(6)), step=0)
    assert torch.allclose(targets.sum(1), torch.ones(6))
    shares = torch.stack([(images[:, 0] == value).float().mean((1, 2)) for value in range(6)], dim=1)
    assert torch.allclose(targets, shares, atol=1e-6)


def test_label_smoothing_is_folded_in():
    _, targets = Mixing(4, prob=0.0, label_smoothing=0.2)(*batch(), step=0)
    assert torch.allclose(targets, torch.nn.functional.one_hot(batch()[1], 4) * 0.8 + 0.05)


def test_an_odd_batch_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match="5 pictures cannot be mixed in pairs; choose batch_size"):
        Mixing(4)(*batch(5), step=0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mode": "all"}, "mode is 'all'"),
        ({"mixup": 0, "cutmix": 0}, "one of them above 0"),
        ({"mixup": -1}, "mixup is -1"),
        ({"prob": 2}, "prob is 2"),
        ({"label_smoothing": -0.1}, "label_smoothing is -0.1"),
        ({"cutmix_minmax": (0.8, 0.2)}, "cutmix_minmax is"),
    ],
)
def test_what_means_nothing_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        Mixing(4, **arguments)
