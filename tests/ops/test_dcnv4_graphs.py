"""DCNv4 inside torch's graphs: registration, torch.compile, torch.export, torch.jit.trace."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.export import Dim

from internimage.ops import dcnv4
from internimage.ops.dcnv4 import op
from internimage.ops.geometry import Geometry
from tests.tolerances import assert_close

from .cases import Inputs, as_keywords, draw, needs_kernel, run
from .packed_cases import pack, run_packed

OPCHECK_LOOKS_AT_GRADS = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
SOFTMAX = pytest.mark.parametrize("softmax", [False, True], ids=["mask", "logits"])
ASYMMETRIC = Geometry((3, 2), (2, 1), (0, 1), (1, 2), 3, 1.5)


class Layer(nn.Module):
    """One call with a fixed geometry, as a module."""

    def __init__(self, geometry: Geometry, backend: str | None, softmax: bool = False):
        super().__init__()
        self.geometry, self.backend, self.softmax = geometry, backend, softmax

    def forward(self, input, offset_mask):
        return dcnv4(input, offset_mask, **as_keywords(self.geometry), softmax=self.softmax, backend=self.backend)


def tensors(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    return inputs.input, pack(inputs, unused=0.0)


@needs_kernel
@OPCHECK_LOOKS_AT_GRADS
def test_opcheck_forward():
    leaves = (tensor.requires_grad_() for tensor in tensors(draw((2, 5, 6), 4, ASYMMETRIC).to(torch.float32)))
    torch.library.opcheck(op.dcnv4_op, (*leaves, *ASYMMETRIC.as_args(), True, "cpu"))


@needs_kernel
@OPCHECK_LOOKS_AT_GRADS
def test_opcheck_forward_on_an_empty_batch():
    image, packed = tensors(draw((0, 5, 6), 4, ASYMMETRIC))
    torch.library.opcheck(op.dcnv4_op, (image.requires_grad_(), packed, *ASYMMETRIC.as_args(), False, "cpu"))


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck_backward(dtype):
    inputs = draw((2, 5, 6), 4, ASYMMETRIC).to(dtype)
    call = (inputs.grad_output, *tensors(inputs), *ASYMMETRIC.as_args(), True, "cpu")
    torch.library.opcheck(op.dcnv4_backward_op, call)


@needs_kernel
@SOFTMAX
def test_the_registered_operator_equals_the_eager_call(softmax):
    inputs = draw((2, 5, 6), 4, ASYMMETRIC)
    want = run_packed(inputs, "cpu", softmax)
    leaves = [tensor.requires_grad_() for tensor in tensors(inputs)]
    output = op.dcnv4_op(*leaves, *ASYMMETRIC.as_args(), softmax, "cpu")
    grads = torch.autograd.grad(output, leaves, inputs.grad_output)
    assert torch.equal(output, want.output) and torch.equal(grads[0], want.grad_input)
    packed = pack(Inputs(inputs.input, want[2], want[3], inputs.grad_output, ASYMMETRIC), unused=0.0)
    assert torch.equal(grads[1], packed)


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("backend", [None, pytest.param("reference", marks=pytest.mark.slow)])
def test_compiled_equals_eager_bit_for_bit(backend, fresh_compiler):
    """One graph, dynamic sizes, forward and backward; ``None``: the backend is chosen while tracing."""
    geometry = Geometry((1, 2), (2, 1), (0, 1), (1, 2), 2, 1.5)
    layer = Layer(geometry, backend, softmax=True)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((2, 6, 7), (1, 9, 5), (3, 4, 4)):
        inputs = draw(size, 4, geometry, seed=size[0]).to(torch.float32)
        results = []
        for function in (layer, compiled):
            leaves = [tensor.detach().requires_grad_() for tensor in tensors(inputs)]
            output = function(*leaves)
            results.append((output, *torch.autograd.grad(output, leaves, inputs.grad_output)))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(("strict", "softmax"), [(False, True), (True, False)], ids=["non_strict", "strict"])
def test_exported_graph_is_plain_torch_and_takes_other_sizes(strict, softmax):
    sizes = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC, 2: Dim.DYNAMIC}
    layer = Layer(ASYMMETRIC, None, softmax)
    example = tensors(draw((2, 6, 8), 4, ASYMMETRIC).to(torch.float32))
    program = torch.export.export(layer, example, dynamic_shapes=(sizes, sizes), strict=strict)
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("grid_sampler" in target for target in targets)
    assert not any("internimage" in target for target in targets)
    for size in ((3, 9, 5), (5, 4, 12)):
        other = draw(size, 4, ASYMMETRIC, seed=1).to(torch.float32)
        want = run(other.to(torch.float64), "reference", softmax).output
        assert_close(program.module()(*tensors(other)), want, "export form")


def test_traced_function_holds_no_custom_operator():
    inputs = draw((2, 5, 6), 4, ASYMMETRIC).to(torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a trace is for one size, and torch says so at each check of a shape
        traced = torch.jit.trace(Layer(ASYMMETRIC, None), tensors(inputs))
    assert "grid_sampler" in str(traced.inlined_graph) and "internimage::" not in str(traced.inlined_graph)
    assert_close(traced(*tensors(inputs)), run(inputs.to(torch.float64), "reference").output, "export form")
