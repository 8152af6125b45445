"""Attention inside torch's graphs: registration, torch.compile, torch.export, torch.jit.trace."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.export import Dim

from internimage.ops import ms_deform_attn, ms_deform_attn_packed
from internimage.ops.ms_deform_attn import op
from tests.tolerances import assert_close

from .attention_cases import AttentionCase, AttentionInputs, Sizes, pack, run_attention
from .cases import needs_kernel

OPCHECK_LOOKS_AT_GRADS = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
SIZES = ((3, 4), (0, 2), (2, 1))
CASE = AttentionCase("graphs", SIZES, queries=4, points=2)


class Layer(nn.Module):
    """One call with fixed sizes, as a module."""

    def __init__(self, sizes: Sizes, backend: str | None = None):
        super().__init__()
        self.sizes, self.backend = sizes, backend

    def forward(self, value, locations, weights):
        return ms_deform_attn(value, self.sizes, locations, weights, backend=self.backend)


class PackedLayer(Layer):
    def forward(self, value, packed):
        return ms_deform_attn_packed(value, self.sizes, packed, backend=self.backend)


def flat(inputs: AttentionInputs) -> tuple[torch.Tensor, ...]:
    """The tensors as the registered operator takes them."""
    return inputs.value.flatten(2), inputs.locations.flatten(3), inputs.weights.flatten(3)


def flat_sizes(inputs: AttentionInputs) -> list[int]:
    return [side for size in inputs.sizes for side in size]


@needs_kernel
@OPCHECK_LOOKS_AT_GRADS
@pytest.mark.parametrize("softmax, dtype", [(False, torch.bfloat16), (True, torch.float32)], ids=str)
def test_opcheck_forward(softmax, dtype):
    inputs = CASE.make(dtype)
    leaves = (tensor.requires_grad_() for tensor in flat(inputs))
    torch.library.opcheck(op.ms_deform_attn_op, (*leaves, flat_sizes(inputs), softmax, "cpu"))


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck_backward(dtype):
    inputs = replace(CASE.make(dtype), locations=CASE.make(torch.float32).locations)
    call = (inputs.grad_output, *flat(inputs), flat_sizes(inputs), True, "cpu")
    torch.library.opcheck(op.ms_deform_attn_backward_op, call)


@needs_kernel
def test_the_registered_operator_equals_the_eager_call():
    inputs = CASE.make()
    want = run_attention(inputs, "cpu")
    leaves = [tensor.requires_grad_() for tensor in flat(inputs)]
    output = op.ms_deform_attn_op(*leaves, flat_sizes(inputs), False, "cpu")
    for got, wanted in zip((output, *torch.autograd.grad(output, leaves, inputs.grad_output)), want, strict=True):
        assert torch.equal(got, wanted.reshape(got.shape))


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("backend", [None, pytest.param("reference", marks=pytest.mark.slow)])
def test_compiled_equals_eager_bit_for_bit(backend, fresh_compiler):
    """One graph, any number of images and queries, forward and backward; ``None``: chosen while tracing."""
    compiled = torch.compile(Layer(SIZES, backend), fullgraph=True, dynamic=True, backend="aot_eager")
    for n, queries in ((2, 4), (1, 9), (3, 2)):
        inputs = AttentionCase("compiled", SIZES, n, queries).make(torch.float32, seed=n).leaves()
        want = run_attention(inputs, backend)
        output = compiled(*inputs.tensors)
        grads = torch.autograd.grad(output, inputs.tensors, inputs.grad_output)
        assert all(torch.equal(a, b) for a, b in zip((output, *grads), want, strict=True))


@pytest.mark.parametrize("strict", [False, True], ids=["non_strict", "strict"])
def test_exported_graph_is_plain_torch_and_takes_other_batches_and_queries(strict):
    batch, both = {0: Dim.DYNAMIC}, {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    inputs = CASE.make(torch.float32)
    program = torch.export.export(Layer(SIZES), inputs.tensors, dynamic_shapes=(batch, both, both), strict=strict)
    assert_plain_torch(program)
    for n, queries in ((3, 9), (5, 2)):
        other = AttentionCase("other", SIZES, n, queries, points=2).make(torch.float32)
        want = run_attention(other.to(torch.float64), "reference").output
        assert_close(program.module()(*other.tensors), want, "export form")


def test_exported_packed_form_is_plain_torch():
    inputs = CASE.make(torch.float32)
    program = torch.export.export(PackedLayer(SIZES), (inputs.value, pack(inputs)))
    assert_plain_torch(program)
    want = run_attention(inputs.to(torch.float64), "reference", softmax=True).output
    assert_close(program.module()(inputs.value, pack(inputs)), want, "export form")


def assert_plain_torch(program: torch.export.ExportedProgram) -> None:
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("grid_sampler" in target for target in targets)
    assert not any("internimage" in target for target in targets)


def test_traced_function_holds_no_custom_operator():
    inputs = CASE.make(torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a trace is for one size, and torch says so at each check of a shape
        traced = torch.jit.trace(Layer(SIZES), inputs.tensors)
    assert "grid_sampler" in str(traced.inlined_graph) and "internimage::" not in str(traced.inlined_graph)
    want = run_attention(inputs.to(torch.float64), "reference").output
    assert_close(traced(*inputs.tensors), want, "export form")
