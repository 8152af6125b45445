"""All three operators on tensors that are not what they seem: views, fakes, traced ones, those of another process."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from internimage.ops import BackendError, dcnv3, dcnv4, ms_deform_attn
from tests.tolerances import assert_close

from .cases import BACKENDS, needs_kernel

EVERY_BACKEND = pytest.mark.parametrize("backend", BACKENDS)


@dataclass(frozen=True)
class Operator:
    """A call with fixed arguments beside its tensors, and the shapes of these."""

    name: str
    run: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        return self.name

    def draw(self, seed: int = 0) -> list[Tensor]:
        random = torch.Generator().manual_seed(seed)
        return [torch.rand(shape, generator=random) * 1.4 - 0.2 for shape in self.shapes]


OPERATORS = [
    Operator(
        "dcnv3",
        lambda *tensors, **options: dcnv3(*tensors, groups=2, **options),
        ((2, 4, 5, 6), (2, 4, 5, 36), (2, 4, 5, 18)),
    ),
    Operator(
        "dcnv4",
        lambda *tensors, **options: dcnv4(*tensors, groups=2, **options),
        ((2, 4, 5, 6), (2, 4, 5, 56)),
    ),
    Operator(
        "ms_deform_attn",
        lambda value, *tensors, **options: ms_deform_attn(value, ((3, 4), (2, 2)), *tensors, **options),
        ((2, 16, 2, 4), (2, 5, 2, 2, 3, 2), (2, 5, 2, 2, 3)),
    ),
]
EVERY_OPERATOR = pytest.mark.parametrize("operator", OPERATORS, ids=str)


def results(operator: Operator, tensors: list[Tensor], backend: str | None, grad: Tensor | None = None) -> list[Tensor]:
    """The output, and the gradients of all tensors, which keep their strides."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    output = operator.run(*leaves, backend=backend)
    grads = torch.autograd.grad(output, leaves, torch.ones_like(output) if grad is None else grad)
    return [output.detach(), *grads]


VIEWS = {
    "expanded": lambda tensor: tensor[:1, :1].expand(tensor.shape),
    "reversed_axes": lambda tensor: (
        tensor.permute(*reversed(range(tensor.dim()))).contiguous().permute(*reversed(range(tensor.dim())))
    ),
    "every_other_channel": lambda tensor: tensor.repeat_interleave(2, -1)[..., ::2],
    "part_of_a_larger_one": lambda tensor: torch.cat((tensor, tensor), 1)[:, : tensor.shape[1]],
    # torch flips the sign when these are read
    "negative": lambda tensor: torch._neg_view(-tensor),
    "negative_strided": lambda tensor: torch.complex(tensor, -tensor).conj().imag,
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@EVERY_OPERATOR
@EVERY_BACKEND
def test_views_give_what_their_copies_give(backend, operator, view):
    tensors = [view(tensor) for tensor in operator.draw()]
    copies = [tensor.clone(memory_format=torch.contiguous_format).resolve_neg() for tensor in tensors]
    for got, want in zip(results(operator, tensors, backend), results(operator, copies, backend), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@EVERY_OPERATOR
@EVERY_BACKEND
def test_gradients_that_come_back_may_be_views(backend, operator, view):
    tensors = operator.draw()
    grad = view(operator.run(*tensors))
    got = results(operator, tensors, backend, grad)
    for a, b in zip(got, results(operator, tensors, backend, grad.resolve_neg().clone()), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("huge", [1e30, -3e38, float("inf"), float("nan")])
@EVERY_OPERATOR
@EVERY_BACKEND
def test_huge_positions_give_zeros_and_finite_gradients(backend, operator, huge):
    tensors = operator.draw()
    tensors[1] = torch.full_like(tensors[1], huge)
    output, grad_input, *_ = results(operator, tensors, backend)
    if operator.name != "dcnv4":  # there the masks are huge too
        assert not output.any()
    assert not grad_input.any()


@needs_kernel
@EVERY_OPERATOR
def test_an_input_changed_before_the_backward_pass_is_noticed(operator):
    for changed in range(len(operator.shapes)):
        tensors = operator.draw()
        leaf = tensors[(changed + 1) % len(tensors)].requires_grad_()
        output = operator.run(*tensors, backend="cpu")
        tensors[changed].add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            output.sum().backward()
        assert leaf.grad is None


@needs_kernel
@EVERY_OPERATOR
def test_fake_tensors_give_shapes_and_read_no_memory(operator):
    with FakeTensorMode():
        tensors = [torch.empty(shape, requires_grad=True) for shape in operator.shapes]
        output = operator.run(*tensors, backend="cpu")
        output.sum().backward()
    assert output.shape == operator.run(*operator.draw()).shape
    assert [tensor.grad.shape for tensor in tensors] == [tensor.shape for tensor in tensors]


@pytest.mark.parametrize("tracing_mode", ["real", "fake", "symbolic"])
@needs_kernel
@EVERY_OPERATOR
def test_a_graph_made_of_a_call_gives_its_numbers_for_other_inputs(operator, tracing_mode):
    """A kernel that ran unseen would leave the numbers of the first call in the graph."""
    first, second = operator.draw(0), operator.draw(1)
    graph = make_fx(lambda *tensors: operator.run(*tensors, backend="cpu"), tracing_mode=tracing_mode)(*first)
    assert torch.equal(graph(*second), operator.run(*second, backend="cpu"))


@needs_kernel
@EVERY_OPERATOR
def test_transforms_of_torch_func_are_refused_in_words_and_run_on_the_reference(operator):
    tensors = operator.draw()
    stacked = [torch.stack((tensor, tensor + 0.1)) for tensor in tensors]
    with pytest.raises(BackendError, match='torch.func transforms do not see .* pass backend="reference"'):
        torch.func.vmap(operator.run)(*stacked)
    got = torch.func.vmap(lambda *tensors: operator.run(*tensors, backend="reference"))(*stacked)
    want = torch.stack([operator.run(*one, backend="reference") for one in zip(*stacked, strict=True)])
    assert torch.equal(got, want)
    grads = torch.func.grad(lambda first: operator.run(first, *tensors[1:], backend="reference").sum())(tensors[0])
    assert torch.equal(grads, results(operator, tensors, "reference")[1])


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")  # torch's own, in its forward mode
@needs_kernel
@EVERY_OPERATOR
def test_derivatives_in_forward_mode_are_refused_in_words_and_run_on_the_reference(operator):
    tensors = operator.draw()
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(tensors[0], torch.ones_like(tensors[0])), *tensors[1:]]
        with pytest.raises(BackendError, match="forward mode do not see into backend 'cpu'"):
            operator.run(*duals)
        operator.run(*tensors)  # no derivative is asked for
        tangent = forward_ad.unpack_dual(operator.run(*duals, backend="reference")).tangent
    want = operator.run(torch.ones_like(tensors[0]), *tensors[1:])  # it is linear in its input
    assert_close(tangent, want, "operator")


def _in_another_process(index: int, queue) -> None:
    operator = OPERATORS[index]
    queue.put(operator.run(*operator.draw()).numpy())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
@needs_kernel
@EVERY_OPERATOR
def test_a_process_forked_after_use_gives_the_same_numbers(operator):
    """As the workers of a DataLoader do; the forward pass, for torch refuses to run gradients there."""
    want = results(operator, operator.draw(), None)[0]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=_in_another_process, args=(OPERATORS.index(operator), queue))
    worker.start()
    try:
        got = queue.get(timeout=30)
    finally:
        worker.join(30)
    assert worker.exitcode == 0
    assert torch.equal(torch.from_numpy(got), want)
