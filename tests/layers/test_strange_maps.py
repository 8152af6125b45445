"""Layers and networks at inference on maps that are not what they seem: the fused passes leave them to PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from internimage.layers import DCNv3, DCNv4
from internimage.ops import BackendError, native
from tests.models.variants import images, make
from tests.tolerances import assert_close

needs_kernel = pytest.mark.skipif(native.load_error() is not None, reason=f"backend 'cpu': {native.load_error()}")


def layer_of(kind: type[DCNv3] | type[DCNv4]) -> nn.Module:
    torch.manual_seed(0)
    layer = kind(8, groups=2).eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.2)
    return layer


MODULES = {
    "DCNv3": lambda: (layer_of(DCNv3), torch.randn(2, 5, 6, 8)),
    "DCNv4": lambda: (layer_of(DCNv4), torch.randn(2, 5, 6, 8)),
    "t": lambda: (make("t", num_classes=5), images()),
    "flash": lambda: (make("flash_l_biases_and_depthwise", num_classes=5), images()),
}
EVERY_MODULE = pytest.mark.parametrize("made", MODULES.values(), ids=MODULES)


@EVERY_MODULE
@torch.no_grad()
def test_signs_that_torch_flips_when_it_reads(made):
    module, x = made()
    assert_close(module(torch._neg_view(-x)), module(x), "model")


@EVERY_MODULE
@torch.no_grad()
def test_expanded_and_strided_maps(made):
    module, x = made()
    assert_close(module(x[:1].expand(3, *x.shape[1:])), module(x[:1].repeat(3, 1, 1, 1)), "model")
    wide = x.repeat_interleave(2, -1)
    assert_close(module(wide[..., ::2]), module(x), "model")


@EVERY_MODULE
@torch.no_grad()
def test_a_graph_made_of_it_gives_its_numbers_for_other_maps(made):
    module, x = made()
    graph = make_fx(module)(x)
    assert_close(graph(x + 1), module(x + 1), "model")


@EVERY_MODULE
@torch.no_grad()
def test_fake_maps_give_shapes(made):
    module, x = made()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = module(mode.from_tensor(x))
    assert fake.shape == module(x).shape


@needs_kernel
@EVERY_MODULE
@torch.no_grad()
def test_transforms_of_torch_func_are_refused_in_words(made):
    module, x = made()
    with pytest.raises(BackendError, match='torch.func transforms do not see .* pass backend="reference"'):
        torch.func.vmap(module)(x.unsqueeze(0))
