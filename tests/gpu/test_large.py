"""Tensors of more than 2**31 elements: what is read and written is exactly what belongs there."""

from __future__ import annotations

import pytest
import torch

from internimage.ops import dcnv3, ms_deform_attn

SHAPES = {
    "one_image": (1, 4100, 4100, 128),  # addresses within an image are 64 bits wide
    "many_images": (20, 1024, 1024, 128),  # those within an image are not
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_pointwise_kernel_without_offsets_copies(gigabytes, shape):
    gigabytes(45)
    n, h, w, c = SHAPES[shape]
    input = torch.randint(-8, 8, (n, h, w, c), device="cuda", dtype=torch.int8).half().requires_grad_()
    assert input.numel() > 2**31
    offset, mask = input.new_zeros(n, h, w, 2), input.new_ones(n, h, w, 1)
    output = dcnv3(input, offset, mask, 1, padding=0)
    assert torch.equal(output, input)
    (gradient,) = torch.autograd.grad(output, input, output.detach())
    assert torch.equal(gradient, output)


def test_offsets_beyond_2_31_elements(gigabytes):
    """Rows that lie far apart; the last of them moves by one pixel."""
    gigabytes(12)
    rows = torch.zeros(1, 64, 64, 2**19 + 8, device="cuda", dtype=torch.float16)
    assert rows.numel() > 2**31
    offset, mask = rows[..., :2], rows[..., 2:3]
    mask.fill_(1)
    offset[0, -1, -1, 0] = -1
    input = torch.randn(1, 64, 64, 8, device="cuda", dtype=torch.float16)
    output = dcnv3(input, offset, mask, 1, padding=0)
    want = input.clone()
    want[0, -1, -1] = input[0, -1, -2]
    assert torch.equal(output, want)


def test_attention_reaches_the_last_level(gigabytes):
    gigabytes(25)
    side = 2900
    value = torch.randint(-8, 8, (1, side * side + 1, 8, 32), device="cuda", dtype=torch.int8).half().requires_grad_()
    assert value.numel() > 2**31
    locations = torch.full((1, 1, 8, 2, 1, 2), 0.5, device="cuda", dtype=torch.float16)
    weights = torch.tensor([0.0, 1.0], device="cuda").half().view(1, 1, 1, 2, 1).expand(1, 1, 8, 2, 1)
    output = ms_deform_attn(value, ((side, side), (1, 1)), locations, weights)
    assert torch.equal(output.view(8, 32), value[0, -1])
    (gradient,) = torch.autograd.grad(output.sum(), value)
    assert (gradient[0, -1] == 1).all() and gradient.count_nonzero() == 8 * 32
