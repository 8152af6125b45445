"""The operators in torch's graphs on a card: torch.compile with Inductor, CUDA graphs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from internimage.layers import DCNv3, DCNv4, MSDeformAttn
from tests.tolerances import assert_close, relative_error

SIZES = ((12, 10), (6, 5))


class Attention(nn.Module):
    """Attention of a map's own pixels, with one argument."""

    def __init__(self):
        super().__init__()
        self.attention = MSDeformAttn(channels=64, levels=2, heads=4, points=4)
        self.register_buffer("reference", torch.rand(2, 150, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, self.reference, x, SIZES)


def restless(layer: nn.Module) -> nn.Module:
    """The same layer with weights that move every sample."""
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.1)
    return layer.cuda()


LAYERS = {
    "dcnv3": (lambda: DCNv3(64, groups=4), (2, 12, 10, 64)),
    "dcnv4": (lambda: DCNv4(64, groups=4), (2, 12, 10, 64)),
    "ms_deform_attn": (Attention, (2, 150, 64)),
}
EVERY_LAYER = pytest.mark.parametrize("name", LAYERS)


def made(name: str) -> tuple[nn.Module, Tensor]:
    make, size = LAYERS[name]
    return restless(make()), torch.randn(size, device="cuda")


def forward_and_gradients(layer: nn.Module, run, x: Tensor) -> list[Tensor]:
    layer.zero_grad()
    output = run(x)
    output.square().sum().backward()
    return [
        output.detach(),
        *(parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None),
    ]


@EVERY_LAYER
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiles_into_one_graph_with_the_same_numbers(card, name, mode):
    torch._dynamo.reset()
    layer, x = made(name)
    want = forward_and_gradients(layer, layer, x)
    compiled = torch.compile(layer, fullgraph=True, mode=mode)
    for _ in range(3):  # the third runs from a CUDA graph, where there is one
        got = forward_and_gradients(layer, compiled, x)
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert relative_error(a, b) < 1e-3


@EVERY_LAYER
def test_is_captured_into_a_cuda_graph_and_replayed_with_other_numbers(card, name):
    layer, x = made(name)
    with torch.no_grad():
        static = x.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # compiles
                layer(static)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = layer(static)
        for _ in range(2):
            static.copy_(torch.randn_like(x))
            graph.replay()
            assert_close(output, layer(static), "module")


@EVERY_LAYER
def test_trains_from_a_cuda_graph(card, name):
    layer, x = made(name)
    want = forward_and_gradients(layer, layer, x)
    graphed = torch.cuda.make_graphed_callables(layer, (torch.randn_like(x),))
    for a, b in zip(forward_and_gradients(layer, graphed, x), want, strict=True):
        assert relative_error(a, b) < 1e-3
