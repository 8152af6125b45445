"""Fifty training steps on the reference and on the kernels stay together, for each operator."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from internimage.ops import dcnv3, dcnv4, ms_deform_attn
from tests.tolerances import assert_close

from .cases import needs_kernel

STEPS = 50


def with_dcnv3(image: Tensor, numbers: Tensor, backend: str) -> Tensor:
    offset, mask = numbers[..., :36], numbers[..., 36:54].sigmoid()
    return dcnv3(image, offset, mask, groups=2, backend=backend)


def with_dcnv4(image: Tensor, numbers: Tensor, backend: str) -> Tensor:
    return dcnv4(image, numbers[..., :56], groups=2, backend=backend)


def with_attention(image: Tensor, numbers: Tensor, backend: str) -> Tensor:
    value, numbers = image.flatten(1, 2).unflatten(-1, (2, -1)), numbers.flatten(1, 2)
    locations = numbers[..., :24].sigmoid().unflatten(-1, (2, 2, 3, 2))
    weights = numbers[..., 24:36].unflatten(-1, (2, 6)).softmax(-1).unflatten(-1, (2, 3))
    return ms_deform_attn(value, ((3, 6), (3, 6)), locations, weights, backend=backend).reshape(image.shape)


def losses(operator: Callable[[Tensor, Tensor, str], Tensor], backend: str) -> Tensor:
    """A projection learns where to look and how much to take, so that the samples give a certain image."""
    torch.manual_seed(0)
    image, target = torch.randn(2, 6, 6, 8), torch.randn(2, 6, 6, 8)
    predict, project = nn.Linear(8, 56), nn.Linear(8, 8)
    optimizer = torch.optim.SGD([*predict.parameters(), *project.parameters()], lr=0.3, momentum=0.9)
    history = []
    for _ in range(STEPS):
        loss = (project(operator(image, predict(image), backend)) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.detach())
    return torch.stack(history)


@needs_kernel
@pytest.mark.parametrize("operator", [with_dcnv3, with_dcnv4, with_attention], ids=lambda function: function.__name__)
def test_reference_and_kernels_learn_alike(operator):
    want = losses(operator, "reference")
    assert want[-1] < 0.95 * want[0]
    assert_close(losses(operator, "cpu"), want, "training")
