"""Gradients against finite differences, and what autograd is promised beside the numbers."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from internimage.ops.geometry import Geometry

from .cases import BACKENDS, Case, Inputs, draw, forward, needs_kernel, off_lattice, run

EVERY_BACKEND = pytest.mark.parametrize("backend", BACKENDS)
SMALL = [
    Case("base", (1, 3, 4), 2),
    Case("asymmetric", (1, 5, 4), 3, Geometry((3, 2), (2, 1), (0, 1), (1, 2), 2, 1.5)),
    Case("remove_center", (2, 3, 3), 1, Geometry(groups=1, remove_center=True)),
    Case("negative_scale", (1, 3, 3), 2, Geometry(groups=1, offset_scale=-0.7)),
]


@pytest.mark.parametrize("softmax", [False, True], ids=["mask", "logits"])
@pytest.mark.parametrize("case", SMALL, ids=str)
@EVERY_BACKEND
def test_gradcheck_off_the_lattice(backend, case, softmax):
    inputs = off_lattice(case.make())
    leaves = [tensor.requires_grad_() for tensor in (inputs.input, inputs.offset, inputs.mask)]

    def function(*tensors):
        return forward(Inputs(*tensors, inputs.grad_output, inputs.geometry), backend, softmax)

    assert torch.autograd.gradcheck(function, leaves, nondet_tol=0.0)


@pytest.mark.parametrize("wanted", [("input",), ("offset",), ("mask",), ("input", "mask")], ids="+".join)
@EVERY_BACKEND
def test_gradients_for_some_inputs_only(backend, wanted):
    inputs = draw((1, 4, 5), 3, Geometry(groups=2))
    full = run(inputs, backend)
    for name in wanted:
        getattr(inputs, name).requires_grad_()
    forward(inputs, backend).backward(inputs.grad_output)
    for name in ("input", "offset", "mask"):
        grad = getattr(inputs, name).grad
        assert (grad is not None) == (name in wanted)
        assert grad is None or torch.equal(grad, getattr(full, f"grad_{name}"))


@EVERY_BACKEND
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode], ids=lambda context: context.__name__)
def test_without_gradients(backend, context):
    inputs = draw((1, 4, 5), 3, Geometry(groups=2))
    want = run(inputs, backend).output
    inputs.input.requires_grad_()
    with context():
        got = forward(inputs, backend)
    assert torch.equal(got, want) and not got.requires_grad


@EVERY_BACKEND
@pytest.mark.parametrize("use_reentrant", [False, True], ids=["checkpoint", "reentrant_checkpoint"])
def test_checkpointing_changes_nothing(backend, use_reentrant):
    inputs = draw((1, 4, 5), 3, Geometry(groups=2))
    want = run(inputs, backend)
    leaves = [tensor.requires_grad_() for tensor in (inputs.input, inputs.offset, inputs.mask)]

    def function(*tensors):
        return forward(Inputs(*tensors, inputs.grad_output, inputs.geometry), backend)

    output = checkpoint(function, *leaves, use_reentrant=use_reentrant)
    output.backward(inputs.grad_output)
    for got, wanted in zip((output, *(leaf.grad for leaf in leaves)), want, strict=True):
        assert torch.equal(got, wanted)


@needs_kernel
def test_a_second_derivative_is_refused_in_words():
    inputs = draw((1, 4, 5), 3, Geometry(groups=2))
    inputs.input.requires_grad_()
    inputs.mask.requires_grad_()
    (grad,) = torch.autograd.grad(forward(inputs, "cpu").square().sum(), inputs.input, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_the_reference_has_second_derivatives():
    inputs = off_lattice(draw((1, 3, 3), 2, Geometry(groups=1)))
    leaves = [tensor.requires_grad_() for tensor in (inputs.input, inputs.offset, inputs.mask)]

    def function(*tensors):
        return forward(Inputs(*tensors, inputs.grad_output, inputs.geometry), "reference")

    assert torch.autograd.gradgradcheck(function, leaves)


@EVERY_BACKEND
def test_gradient_of_a_sum_arrives_expanded(backend):
    inputs = draw((2, 4, 5), 3, Geometry(groups=2))
    ones = run(
        Inputs(inputs.input, inputs.offset, inputs.mask, torch.ones_like(inputs.grad_output), inputs.geometry), backend
    )
    leaves = [tensor.requires_grad_() for tensor in (inputs.input, inputs.offset, inputs.mask)]
    grads = torch.autograd.grad(forward(inputs, backend).sum(), leaves)
    for got, want in zip(grads, ones[1:], strict=True):
        assert torch.equal(got, want)
