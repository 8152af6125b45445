"""What must hold whatever the formula's code looks like: truths that need no reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from internimage.ops.geometry import Geometry
from tests.tolerances import assert_close

from .cases import BACKENDS, CASES, draw, forward, run

EVERY_BACKEND = pytest.mark.parametrize("backend", BACKENDS)
FULL_CASES = [case for case in CASES if case.size[0]]


def channels_first(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.permute(0, 3, 1, 2)


@EVERY_BACKEND
@pytest.mark.parametrize("kernel_size", [(3, 3), (5, 3), (2, 4), (1, 1)], ids=str)
@pytest.mark.parametrize("stride", [(1, 1), (2, 3)], ids=str)
def test_zero_offsets_and_an_even_mask_are_a_box_filter(backend, kernel_size, stride):
    padding = (kernel_size[0] // 2, kernel_size[1] // 2)
    inputs = draw((2, 7, 8), 3, Geometry(kernel_size, stride, padding, groups=2), offset_std=0.0)
    inputs = replace(inputs, mask=torch.full_like(inputs.mask, 1 / inputs.geometry.taps))
    want = F.avg_pool2d(channels_first(inputs.input), kernel_size, stride, padding)
    assert_close(channels_first(forward(inputs, backend)), want, "operator")


@EVERY_BACKEND
def test_zero_offsets_are_a_depthwise_convolution_with_the_mask_as_its_kernel(backend):
    geometry = Geometry((3, 2), (2, 1), (1, 2), (1, 3), groups=4)
    inputs = draw((1, 7, 8), 1, geometry, offset_std=0.0)
    kernels = torch.rand(4, 2, 3, dtype=torch.float64)  # group, then the taps x-major: column, row
    mask = kernels.reshape(1, 1, 1, -1).expand_as(inputs.mask)
    weight = kernels.transpose(1, 2).unsqueeze(1)
    want = F.conv2d(channels_first(inputs.input), weight, None, (2, 1), (1, 2), (1, 3), groups=4)
    assert_close(channels_first(forward(replace(inputs, mask=mask), backend)), want, "operator")


@EVERY_BACKEND
def test_offset_scale_zero_samples_one_point_with_every_tap(backend):
    inputs = draw((2, 5, 6), 3, Geometry(groups=2, offset_scale=0.0))
    total = inputs.mask.reshape(2, 5, 6, 2, 9).sum(-1, keepdim=True)
    want = (inputs.input.reshape(2, 5, 6, 2, 3) * total).reshape(inputs.input.shape)
    got = run(inputs, backend)
    assert_close(got.output, want, "operator")
    assert not got.grad_offset.any()


@EVERY_BACKEND
@pytest.mark.parametrize("shift", [(1, 0), (0, -2), (3, 2)], ids=str)
def test_moving_the_image_moves_the_output(backend, shift):
    """Content in the middle of a wide empty map, moved by whole pixels together with its offsets and masks."""
    inputs = draw((1, 17, 19), 4, Geometry(groups=2), offset_std=0.7)
    frame = torch.zeros(17, 19, 1, dtype=torch.float64)
    frame[6:11, 6:12] = 1
    inputs = replace(inputs, input=inputs.input * frame, grad_output=inputs.grad_output * frame)
    inputs = replace(inputs, offset=inputs.offset.clamp(-2, 2))
    moved = inputs.map(lambda tensor: tensor.roll(shift, (1, 2)))
    for before, after in zip(run(inputs, backend), run(moved, backend), strict=True):
        assert_close(after, before.roll(shift, (1, 2)), "operator")


@EVERY_BACKEND
def test_moving_the_offsets_by_whole_pixels_is_moving_the_image_the_other_way(backend):
    inputs = draw((1, 9, 8), 4, Geometry(padding=(0, 0), groups=2), offset_std=0.0)
    right, down = 1, 2
    looking_elsewhere = replace(inputs, offset=inputs.offset + inputs.offset.new_tensor([right, down]).repeat(18))
    moved = F.pad(inputs.input, (0, 0, 0, right, 0, down))[:, down:, right:]
    assert_close(forward(looking_elsewhere, backend), forward(replace(inputs, input=moved), backend), "operator")


@EVERY_BACKEND
@pytest.mark.parametrize("argument", ["input", "mask"])
def test_linear(backend, argument):
    a, b = draw((2, 5, 6), 4, Geometry(groups=2), seed=1), draw((2, 5, 6), 4, Geometry(groups=2), seed=2)
    b = replace(a, **{argument: getattr(b, argument)})
    mixed = replace(a, **{argument: 0.3 * getattr(a, argument) - 2.0 * getattr(b, argument)})
    assert_close(forward(mixed, backend), 0.3 * forward(a, backend) - 2.0 * forward(b, backend), "operator")


@EVERY_BACKEND
@pytest.mark.parametrize("case", FULL_CASES, ids=str)
def test_a_batch_is_its_images_one_by_one(backend, case):
    inputs = replace(case, size=(3, *case.size[1:])).make()
    together = run(inputs, backend)
    one_by_one = [run(inputs.map(lambda tensor, at=at: tensor[at : at + 1]), backend) for at in range(3)]
    for whole, parts in zip(together, zip(*one_by_one, strict=True), strict=True):
        assert_close(whole, torch.cat(parts), "operator")


@EVERY_BACKEND
@pytest.mark.parametrize("case", FULL_CASES, ids=str)
def test_groups_do_not_know_each_other(backend, case):
    inputs = case.make()
    groups = inputs.geometry.groups
    together = run(inputs, backend)
    alone = replace(inputs, geometry=replace(inputs.geometry, groups=1))
    one_by_one = [run(alone.map(lambda tensor, g=g: tensor.chunk(groups, -1)[g]), backend) for g in range(groups)]
    for whole, parts in zip(together, zip(*one_by_one, strict=True), strict=True):
        assert_close(whole, torch.cat(parts, -1), "operator")


@EVERY_BACKEND
def test_logits_are_a_mask_after_softmax(backend):
    inputs = draw((2, 4, 5), 3, Geometry(groups=2))
    logits = torch.randn_like(inputs.mask).requires_grad_()
    mask = logits.reshape(2, 4, 5, 2, 9).softmax(-1).reshape(logits.shape)
    got, want = run(replace(inputs, mask=logits), backend, softmax=True), run(replace(inputs, mask=mask), backend)
    (want_grad,) = torch.autograd.grad(mask, logits, want.grad_mask)
    for a, b in zip(got, want._replace(grad_mask=want_grad), strict=True):
        assert_close(a, b, "operator")


@EVERY_BACKEND
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_softmax_stands_large_logits(backend, dtype):
    inputs = draw((1, 3, 4), 3, Geometry(groups=2)).to(dtype)
    logits = torch.full_like(inputs.mask, -30000.0)
    logits[..., ::9] = 30000.0  # the first tap of each group takes it all
    got = run(replace(inputs, mask=logits), backend, softmax=True)
    first = torch.zeros_like(inputs.mask)
    first[..., ::9] = 1.0
    want = run(replace(inputs, mask=first).to(torch.float64), backend)
    assert_close(got.output, want.output, "operator")
    assert not got.grad_mask.any()
