"""Deformable layers in the place of a Conv2d survive what nets of other people do with theirs."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from internimage.layers import DCNv3Conv2d, DCNv4Conv2d
from tests.tolerances import assert_close

BOTH = pytest.mark.parametrize("layer", [DCNv3Conv2d, DCNv4Conv2d])


@BOTH
@pytest.mark.parametrize(
    ("stride", "kernel", "size"), [(1, 3, (7, 8)), (2, 3, (7, 8)), ((2, 1), 5, (9, 6)), (1, 1, (4, 5))]
)
@pytest.mark.parametrize(("inward", "outward"), [(16, 16), (7, 12), (3, 8), (34, 5), (1, 2)])
def test_sizes_are_those_of_a_conv2d(layer, stride, kernel, size, inward, outward):
    x = torch.zeros(1, inward, *size)
    like = nn.Conv2d(inward, outward, kernel, stride, padding=(kernel - 1) // 2)
    made = layer(inward, outward, kernel, stride)
    assert made(x).shape == like(x).shape
    assert made.core.geometry.groups and inward % made.core.geometry.groups == 0


@BOTH
def test_a_small_net_learns(layer):
    """With DCNv4's released initial values the maps would stay zero, and the loss where it starts."""
    torch.manual_seed(0)
    net = nn.Sequential(
        layer(3, 8, 3, 2),
        nn.BatchNorm2d(8),
        nn.SiLU(),
        layer(8, 8),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )
    x = torch.randn(32, 3, 12, 12)
    target = (x[:, 0].mean((1, 2)) > 0).long()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        loss = nn.functional.cross_entropy(net(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.grad is not None for parameter in net.parameters())


@BOTH
def test_copies_pickles_and_halves(layer):
    torch.manual_seed(0)
    made, x = layer(8, 12, 3, 2).eval(), torch.randn(1, 8, 6, 6)
    want = made(x)
    assert torch.equal(copy.deepcopy(made)(x), want)
    assert torch.equal(pickle.loads(pickle.dumps(made))(x), want)
    assert_close(made.half()(x.half()).float(), want.detach(), "model", torch.float16)


@BOTH
def test_exports_without_a_custom_operator(layer):
    made = layer(8, 12, 3, 2).eval()
    program = torch.export.export(made, (torch.randn(1, 8, 6, 6),))
    assert not [node for node in program.graph.nodes if "internimage" in str(node.target)]


@BOTH
def test_refuses(layer):
    with pytest.raises(ValueError, match="in_channels is 0"):
        layer(0, 4)
    with pytest.raises(ValueError, match="not a positive multiple of groups=3"):
        layer(4, 4, groups=3)
    with pytest.raises(ValueError, match=r"expected \(N, 4, H, W\)"):
        layer(4, 4)(torch.zeros(1, 3, 8, 8))
