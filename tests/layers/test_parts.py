"""The small layers: norms, activations, channels-last convolution, feed-forward half."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from internimage.layers.activation import ACTIVATIONS, make_activation
from internimage.layers.convolution import ChannelsLastConv2d
from internimage.layers.mlp import MLP
from internimage.layers.norm import make_norm
from tests.tolerances import assert_close


def test_layer_norm_has_the_released_epsilon():
    norm = make_norm("LN", 8)
    x = torch.randn(2, 3, 4, 8) * 1e-3  # small numbers, so that the epsilon counts
    centred = x - x.mean(-1, keepdim=True)
    assert_close(norm(x), centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt(), "module")


def test_batch_norm_takes_channels_last():
    norm, like = make_norm("BN", 8), nn.BatchNorm2d(8)
    x = torch.randn(2, 3, 4, 8)
    for _ in range(2):
        assert_close(norm(x), like(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1), "module")
        norm.eval()
        like.eval()


@pytest.mark.parametrize("name", ["ln", "GN", None])
def test_unknown_norm(name):
    with pytest.raises(ValueError, match=f"norm_layer is {name!r}, expected 'LN' or 'BN'"):
        make_norm(name, 8)


@pytest.mark.parametrize("name, function", [("GELU", F.gelu), ("ReLU", F.relu), ("SiLU", F.silu)])
def test_activations(name, function):
    x = torch.linspace(-4, 4, 33)
    assert torch.equal(make_activation(name)(x), function(x))


def test_unknown_activation():
    assert list(ACTIVATIONS) == ["GELU", "ReLU", "SiLU"]
    with pytest.raises(ValueError, match="act_layer is 'Mish', expected one of 'GELU', 'ReLU', 'SiLU'"):
        make_activation("Mish")


@pytest.mark.parametrize("arguments", [(6, 8, 3, 2, 1), (6, 6, (3, 5), 1, (1, 2), 1, 6), (6, 4, 1)], ids=str)
def test_convolution_of_channels_last_maps(arguments):
    conv = ChannelsLastConv2d(*arguments).double()
    x = torch.randn(2, 7, 9, 6, dtype=torch.float64)
    want = F.conv2d(
        x.permute(0, 3, 1, 2), conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups
    )
    assert_close(conv(x), want.permute(0, 2, 3, 1), "module")
    like = nn.Conv2d(*arguments).double()
    assert {name: value.shape for name, value in conv.state_dict().items()} == {
        name: value.shape for name, value in like.state_dict().items()
    }


@pytest.mark.parametrize("act_layer", ["GELU", "ReLU"])
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_mlp(act_layer, grad):
    mlp = MLP(6, 24, act_layer)
    x = torch.randn(2, 3, 4, 6)
    want = mlp.fc2({"GELU": F.gelu, "ReLU": F.relu}[act_layer](mlp.fc1(x))).detach()
    with torch.set_grad_enabled(grad):
        assert_close(mlp(x), want, "module")


def test_mlp_drops_only_while_training():
    mlp = MLP(6, 24, drop_rate=0.5)
    x = torch.randn(2, 6)
    assert not torch.equal(mlp(x), mlp(x))
    assert torch.equal(mlp.eval()(x), mlp(x))


def test_mlp_drops_in_inference_where_only_its_dropout_is_told_to():
    """As those do who want to see how sure a net is."""
    mlp = MLP(6, 24, drop_rate=0.5).eval()
    mlp.drop.train()
    x = torch.randn(2, 6)
    with torch.no_grad():
        assert not torch.equal(mlp(x), mlp(x))
