"""The operator inside torch's graphs: registration, torch.compile, torch.export, torch.jit.trace."""

from __future__ import annotations

import shutil
import warnings

import pytest
import torch
from torch import nn
from torch.export import Dim

from internimage.ops.dcnv3 import op
from internimage.ops.geometry import Geometry
from tests.tolerances import assert_close

from .cases import Inputs, draw, forward, needs_kernel, run

OPCHECK_LOOKS_AT_GRADS = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
SOFTMAX = pytest.mark.parametrize("softmax", [False, True], ids=["mask", "logits"])
GEOMETRIES = [
    Geometry(groups=2),
    Geometry((3, 2), (2, 1), (0, 1), (1, 2), 2, 1.5),
    Geometry((3, 5), padding=(1, 2), groups=1, remove_center=True),
]


class Layer(nn.Module):
    """One call with a fixed geometry, as a module."""

    def __init__(self, geometry: Geometry, backend: str | None, softmax: bool = False):
        super().__init__()
        self.geometry, self.backend, self.softmax = geometry, backend, softmax

    def forward(self, input, offset, mask):
        return forward(Inputs(input, offset, mask, input, self.geometry), self.backend, self.softmax)


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@needs_kernel
@OPCHECK_LOOKS_AT_GRADS
@SOFTMAX
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=["square", "asymmetric", "remove_center"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck_forward(geometry, softmax, dtype):
    inputs = draw((2, 5, 6), 4, geometry).to(dtype)
    leaves = [tensor.requires_grad_() for tensor in (inputs.input, inputs.offset, inputs.mask)]
    arguments = (*leaves, *geometry.as_args(), softmax, "cpu")
    torch.library.opcheck(op.dcnv3_op, arguments)


@needs_kernel
@OPCHECK_LOOKS_AT_GRADS
def test_opcheck_forward_on_an_empty_batch():
    inputs = draw((0, 5, 6), 4, GEOMETRIES[0])
    tensors = (inputs.input.requires_grad_(), inputs.offset, inputs.mask)
    torch.library.opcheck(op.dcnv3_op, (*tensors, *GEOMETRIES[0].as_args(), False, "cpu"))


@needs_kernel
@SOFTMAX
def test_opcheck_forward_on_slices(softmax):
    inputs = draw((2, 5, 6), 4, GEOMETRIES[0])
    both = torch.cat((inputs.offset, inputs.mask), -1)
    offset, mask = both.split((inputs.offset.shape[-1], inputs.mask.shape[-1]), -1)
    image = inputs.input.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    arguments = (image, offset, mask, *GEOMETRIES[0].as_args(), softmax, "cpu")
    torch.library.opcheck(op.dcnv3_op, arguments)


@needs_kernel
@SOFTMAX
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck_backward(softmax, dtype):
    inputs = draw((2, 5, 6), 4, GEOMETRIES[0]).to(dtype)
    tensors = (inputs.grad_output, inputs.input, inputs.offset, inputs.mask)
    torch.library.opcheck(op.dcnv3_backward_op, (*tensors, *GEOMETRIES[0].as_args(), softmax, "cpu"))


@needs_kernel
@SOFTMAX
def test_the_registered_operator_equals_the_eager_call(softmax):
    inputs = draw((2, 5, 6), 4, GEOMETRIES[1])
    want = run(inputs, "cpu", softmax)
    leaves = [tensor.requires_grad_() for tensor in (inputs.input, inputs.offset, inputs.mask)]
    output = op.dcnv3_op(*leaves, *inputs.geometry.as_args(), softmax, "cpu")
    for got, wanted in zip((output, *torch.autograd.grad(output, leaves, inputs.grad_output)), want, strict=True):
        assert torch.equal(got, wanted)


@SOFTMAX
@pytest.mark.parametrize(
    "backend",
    [None, pytest.param("cpu", marks=needs_kernel), "grid_sample", pytest.param("reference", marks=pytest.mark.slow)],
)
def test_compiled_equals_eager_bit_for_bit(backend, softmax, fresh_compiler):
    """One graph, dynamic sizes, forward and backward; ``None``: the backend is chosen while tracing."""
    check_compiled(backend, softmax, "aot_eager")


@pytest.mark.skipif(shutil.which("c++") is None, reason="Inductor needs a C++ compiler")
@needs_kernel
def test_compiled_by_inductor_equals_eager(fresh_compiler):
    check_compiled(None, True, "inductor")


def check_compiled(backend: str | None, softmax: bool, compiler: str) -> None:
    geometry = Geometry((1, 2), (2, 1), (0, 1), (1, 2), 2, 1.5)  # few taps: the reference's loop over them is unrolled
    layer = Layer(geometry, backend, softmax)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=compiler)
    for size in ((2, 6, 7), (1, 9, 5), (3, 4, 4)):
        inputs = draw(size, 4, geometry, seed=size[0]).to(torch.float32)
        want = run(inputs, backend, softmax)
        leaves = [tensor.requires_grad_() for tensor in (inputs.input, inputs.offset, inputs.mask)]
        output = compiled(*leaves)
        for got, wanted in zip((output, *torch.autograd.grad(output, leaves, inputs.grad_output)), want, strict=True):
            assert torch.equal(got, wanted)


@needs_kernel
def test_a_compiled_graph_holds_the_operator_and_its_backward(fresh_compiler):
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph.forward

    inputs = draw((1, 5, 6), 4, GEOMETRIES[0]).to(torch.float32)
    leaves = [tensor.requires_grad_() for tensor in (inputs.input, inputs.offset, inputs.mask)]
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    compiler = aot_autograd(fw_compiler=lambda g, x: make_boxed_func(keep(g, x)))
    torch.compile(Layer(GEOMETRIES[0], None), fullgraph=True, backend=compiler)(*leaves).sum().backward()
    targets = [str(node.target) for graph in graphs for node in graph.graph.nodes]
    assert targets.count("internimage.dcnv3.default") == 1
    assert targets.count("internimage.dcnv3_backward.default") == 1


@SOFTMAX
@pytest.mark.parametrize("strict", [False, True], ids=["non_strict", "strict"])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=["square", "asymmetric", "remove_center"])
def test_exported_graph_is_plain_torch_and_takes_other_sizes(geometry, strict, softmax):
    inputs = draw((2, 6, 8), 4, geometry).to(torch.float32)
    sizes = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC, 2: Dim.DYNAMIC}
    program = torch.export.export(
        Layer(geometry, None, softmax),
        (inputs.input, inputs.offset, inputs.mask),
        dynamic_shapes=(sizes, sizes, sizes),
        strict=strict,
    )
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("grid_sampler" in target for target in targets)
    assert not any("internimage" in target for target in targets)
    for size in ((2, 6, 8), (3, 9, 5), (5, 4, 12)):
        other = draw(size, 4, geometry, seed=1).to(torch.float32)
        got = program.module()(other.input, other.offset, other.mask)
        assert_close(got, run(other.to(torch.float64), "reference", softmax).output, "export form")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_exported_half_types_keep_float32_positions(dtype):
    inputs = draw((1, 6, 8), 4, GEOMETRIES[0]).to(dtype)
    program = torch.export.export(Layer(GEOMETRIES[0], None), (inputs.input, inputs.offset, inputs.mask))
    got = program.module()(inputs.input, inputs.offset, inputs.mask)
    assert got.dtype == dtype
    assert_close(got, run(inputs.to(torch.float64), "reference").output, "export form")


def test_traced_function_holds_no_custom_operator():
    inputs = draw((2, 5, 6), 4, GEOMETRIES[1]).to(torch.float32)
    tensors = (inputs.input, inputs.offset, inputs.mask)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a trace is for one size, and torch says so at each check of a shape
        traced = torch.jit.trace(Layer(GEOMETRIES[1], None), tensors)
    assert "grid_sampler" in str(traced.inlined_graph) and "internimage::" not in str(traced.inlined_graph)
    assert_close(traced(*tensors), run(inputs.to(torch.float64), "reference").output, "export form")
