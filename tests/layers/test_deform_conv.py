"""The DCNv3 layer: initial values, every option against the sum of its parts, and what it refuses."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from internimage.layers import DCNv3
from internimage.layers.norm import LAYER_NORM_EPS
from internimage.ops import BackendError, dcnv3
from tests.tolerances import assert_close

OPTIONS = {
    "default": {},
    "released_t": {"channels": 64, "groups": 4},
    "dw_kernel_size": {"dw_kernel_size": 5},
    "dw_kernel_pair": {"dw_kernel_size": (1, 7)},
    "center_feature_scale": {"center_feature_scale": True},
    "remove_center": {"remove_center": True},
    "batch_norm": {"norm_layer": "BN"},
    "relu": {"act_layer": "ReLU"},
    "silu": {"act_layer": "SiLU"},
    "offset_scale": {"offset_scale": 2.0},
    "kernel5": {"kernel_size": 5, "padding": 2},
    "kernel_pair": {"kernel_size": (3, 5), "padding": (1, 2)},
    "dilation": {"padding": 2, "dilation": 2},
    "even_kernel": {"kernel_size": 2, "padding": 0},
    "even_kernel_and_stride": {"kernel_size": 2, "stride": 2, "padding": 0},
    "stride2": {"stride": 2},
    "stride_pair": {"stride": (1, 3)},
    "no_padding": {"padding": 0},
    "wide_padding_and_stride": {"padding": (3, 2), "stride": 2},
    "dilation_beyond_padding": {"padding": (1, 0), "dilation": (2, 1)},
    "no_padding_dilation_dw5": {"padding": 0, "dilation": 2, "dw_kernel_size": 5},
    "one_group": {"groups": 1},
    "odd_channels": {"channels": 15, "groups": 3},
    "all_of_h": {"dw_kernel_size": 5, "center_feature_scale": True, "offset_scale": 1.0},
}
EVERY_OPTION = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def make(dtype: torch.dtype = torch.float64, **options) -> DCNv3:
    """A layer whose offsets, masks and blends are not at zero."""
    torch.manual_seed(0)
    layer = DCNv3(**{"channels": 12, "groups": 2, **options})
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer.to(dtype)


def picture(layer: DCNv3, size: tuple[int, int, int] = (2, 8, 7)) -> Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randn(*size, layer.channels, generator=random, dtype=torch.float64).to(layer.offset.weight.dtype)


def sum_of_parts(layer: DCNv3, x: Tensor) -> Tensor:
    """The module in plain steps, with the public operator."""
    g = layer.geometry
    conv = layer.dw_conv
    # its middles are those of the operator's kernels
    halves = [d * (k - 1) // 2 for d, k in zip(g.dilation, g.kernel_size, strict=True)]
    padding = [(k - 1) // 2 + p - half for k, p, half in zip(conv.kernel_size, g.padding, halves, strict=True)]
    features = F.conv2d(x.permute(0, 3, 1, 2), conv.weight, conv.bias, g.stride, padding, groups=layer.channels)
    if isinstance(layer.dw_norm, nn.BatchNorm2d):
        features = F.batch_norm(features, None, None, layer.dw_norm.weight, layer.dw_norm.bias, training=True)
        features = features.permute(0, 2, 3, 1)
    else:
        norm = layer.dw_norm
        features = F.layer_norm(features.permute(0, 2, 3, 1), (layer.channels,), norm.weight, norm.bias, LAYER_NORM_EPS)
    features = {nn.GELU: F.gelu, nn.ReLU: F.relu, nn.SiLU: F.silu}[type(layer.dw_act)](features)
    logits = layer.mask(features)
    mask = logits.unflatten(-1, (g.groups, g.taps)).softmax(-1).reshape(logits.shape)
    values = layer.input_proj(x)
    output = dcnv3(
        values,
        layer.offset(features),
        mask,
        g.kernel_size,
        stride=g.stride,
        padding=g.padding,
        dilation=g.dilation,
        groups=g.groups,
        offset_scale=g.offset_scale,
        remove_center=g.remove_center,
        backend="reference",
    )
    if layer.center_feature_scale:
        scale = layer.center_feature_scale_proj(features).sigmoid()
        scale = scale.repeat_interleave(layer.channels // g.groups, -1)
        output = output * (1 - scale) + values * scale
    return layer.output_proj(output)


@EVERY_OPTION
def test_forward_is_the_sum_of_its_parts(options):
    layer = make(**options)
    x = picture(layer)
    assert_close(layer(x), sum_of_parts(layer, x), "module")


@EVERY_OPTION
def test_gradients_are_those_of_its_parts(options):
    layer = make(**options)
    x = picture(layer).requires_grad_()
    names = [name for name, _ in layer.named_parameters()]
    if isinstance(layer.dw_norm, nn.BatchNorm2d):
        names.remove("dw_conv.bias")  # a batch norm takes it out again: its gradient is rounding and nothing else
    leaves = [x, *map(layer.get_parameter, names)]
    want = sum_of_parts(layer, x)
    grad_output = torch.randn_like(want)
    got = torch.autograd.grad(layer(x), leaves, grad_output)
    for a, b in zip(got, torch.autograd.grad(want, leaves, grad_output), strict=True):
        assert_close(a, b, "module gradient")


@EVERY_OPTION
def test_inference_in_float32_gives_the_same_numbers(options):
    """Without gradients the CPU takes fused passes."""
    layer = make(torch.float32, **options)
    want = sum_of_parts(copy.deepcopy(layer).double(), picture(layer).double())
    with torch.no_grad():
        got = layer(picture(layer))
    assert_close(got, want, "module")
    assert_close(layer(picture(layer)).detach(), want, "module")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_a_half_layer_stays_near_its_float64_self(dtype, grad):
    layer = make(dtype, center_feature_scale=True)
    want = sum_of_parts(copy.deepcopy(layer).double(), picture(layer).double())
    with torch.set_grad_enabled(grad):
        got = layer(picture(layer))
    assert got.dtype == dtype
    assert_close(got.detach(), want, "module")


def test_parameters_and_their_names():
    shapes = {name: tuple(value.shape) for name, value in DCNv3(64, groups=4).state_dict().items()}
    assert shapes == {
        "dw_conv.weight": (64, 1, 3, 3),
        "dw_conv.bias": (64,),
        "dw_norm.weight": (64,),
        "dw_norm.bias": (64,),
        "offset.weight": (72, 64),
        "offset.bias": (72,),
        "mask.weight": (36, 64),
        "mask.bias": (36,),
        "input_proj.weight": (64, 64),
        "input_proj.bias": (64,),
        "output_proj.weight": (64, 64),
        "output_proj.bias": (64,),
    }
    assert DCNv3(64, center_feature_scale=True).center_feature_scale_proj.weight.shape == (4, 64)
    assert DCNv3(64, groups=4, remove_center=True).mask.weight.shape == (32, 64)


def test_released_initial_values():
    torch.manual_seed(0)
    layer = DCNv3(64, groups=4, center_feature_scale=True)
    for name in ("offset", "mask", "center_feature_scale_proj"):
        assert not getattr(layer, name).weight.any() and not getattr(layer, name).bias.any()
    for name in ("input_proj", "output_proj"):
        weight = getattr(layer, name).weight
        bound = math.sqrt(6 / (64 + 64))  # Xavier uniform
        assert weight.abs().max() <= bound and 0.9 < weight.std() / (bound / math.sqrt(3)) < 1.1
        assert not getattr(layer, name).bias.any()
    assert layer.dw_norm.eps == 1e-6
    assert (layer.dw_norm.weight == 1).all() and not layer.dw_norm.bias.any()
    bound = 1 / 3  # torch's own for a depthwise 3x3
    assert layer.dw_conv.weight.abs().max() <= bound and layer.dw_conv.bias.abs().max() <= bound


def test_a_new_layer_averages_its_neighbourhood():
    """No offsets and even masks: projection, box filter, projection."""
    layer = DCNv3(12, groups=3).double()
    x = picture(layer)
    box = F.avg_pool2d(layer.input_proj(x).permute(0, 3, 1, 2), 3, 1, 1).permute(0, 2, 3, 1)
    assert_close(layer(x), layer.output_proj(box), "module")


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 1), (2, 5)], ids=str)
@pytest.mark.parametrize("stride", [2, 3, (2, 1)], ids=str)
def test_strided_sizes_are_those_of_a_convolution(stride, size):
    layer = DCNv3(8, groups=2, stride=stride)
    like = nn.Conv2d(8, 8, 3, stride, 1)
    want = like(torch.zeros(1, 8, *size)).shape[2:]
    assert layer(torch.zeros(1, *size, 8)).shape == (1, *want, 8)


REFUSED = {
    "channels_not_divisible": ({"channels": 10, "groups": 4}, "channels=10 is not a positive multiple of groups=4"),
    "channels_zero": ({"channels": 0}, "channels=0 is not a positive multiple"),
    "channels_text": ({"channels": "64"}, "channels='64' is not a positive multiple"),
    "groups_zero": ({"groups": 0}, "groups is 0, expected an int >= 1"),
    "kernel_size": ({"kernel_size": 0}, "kernel_size is 0, expected an int >= 1"),
    "dw_kernel_size": ({"dw_kernel_size": (3, 0)}, r"dw_kernel_size is \(3, 0\), expected an int >= 1"),
    "stride": ({"stride": 1.5}, "stride is 1.5, expected an int >= 1"),
    "padding": ({"padding": -1}, "padding is -1, expected an int >= 0"),
    "dilation": ({"dilation": 0}, "dilation is 0, expected an int >= 1"),
    "offset_scale": ({"offset_scale": float("nan")}, "offset_scale is nan, expected a finite number"),
    "act_layer": ({"act_layer": "gelu"}, "act_layer is 'gelu', expected one of 'GELU', 'ReLU', 'SiLU'"),
    "norm_layer": ({"norm_layer": "GN"}, "norm_layer is 'GN', expected 'LN' or 'BN'"),
    "remove_center_even": ({"kernel_size": 2, "padding": 0, "remove_center": True}, "odd on both axes"),
    "branch_too_narrow": (
        {"padding": 0, "dilation": 2},
        r"depthwise kernel of \(3, 3\) does not reach the border; pass dw_kernel_size=\(5, 5\) or more padding",
    ),
    "even_beside_odd": (
        {"kernel_size": 4, "dw_kernel_size": 3},
        "the height changes by -1 before the stride, .* by 0: their sizes never fit; pass another dw_kernel_size",
    ),
    "center_feature_scale_strided": ({"center_feature_scale": True, "stride": 2}, "must be of one size"),
    "center_feature_scale_even": (
        {"center_feature_scale": True, "kernel_size": 2, "padding": 0},
        "center_feature_scale blends the output with the input",
    ),
}


@pytest.mark.parametrize("options, message", REFUSED.values(), ids=REFUSED)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        DCNv3(**{"channels": 64, **options})


@EVERY_OPTION
def test_the_operator_of_dcnv4_gives_the_same_numbers_and_gradients(options):
    layer, on_v4 = make(**options), make(use_dcn_v4_op=True, **options)
    assert on_v4.state_dict().keys() == layer.state_dict().keys()
    x = picture(layer)
    want = layer(x)
    grad_output = torch.randn_like(want)
    assert_close(on_v4(x), want, "module")
    names = [name for name, _ in layer.named_parameters() if "BN" not in options.values() or name != "dw_conv.bias"]
    wanted = torch.autograd.grad(want, [layer.get_parameter(name) for name in names], grad_output)
    got = torch.autograd.grad(on_v4(x), [on_v4.get_parameter(name) for name in names], grad_output)
    for a, b in zip(got, wanted, strict=True):
        assert_close(a, b, "module gradient")


def test_the_operator_of_dcnv4_is_really_the_one_that_runs(monkeypatch):
    seen = []
    from internimage.layers import deform_conv

    run = deform_conv.dcnv4_on_maps
    monkeypatch.setattr(deform_conv, "dcnv4_on_maps", lambda *call: seen.append(call[1].shape[-1]) or run(*call))
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            layer = make(torch.float32, use_dcn_v4_op=True)
            layer(picture(layer))
    assert seen == [56, 56]  # 2 groups of 9 taps: 54 numbers, rounded up


def test_positional_arguments_end_with_kernel_size():
    with pytest.raises(TypeError):
        DCNv3(64, 3, 5)


@pytest.mark.parametrize("shape", [(5, 6, 8), (1, 8, 5, 6), (1, 5, 6, 4)], ids=str)
def test_refuses_an_input_that_is_not_channels_last(shape):
    with pytest.raises(ValueError, match=r"expected \(N, H, W, 8\)"):
        DCNv3(8, groups=2)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(1, 5, 6, 8).numpy(), "input is a ndarray, expected a torch.Tensor"),
        (torch.zeros(1, 5, 6, 8).double(), "input is torch.float64, expected torch.float32"),
        (torch.zeros(1, 5, 6, 8, dtype=torch.uint8), "input is torch.uint8, expected torch.float32"),
        (torch.zeros(1, 0, 6, 8), r"input has shape \(1, 0, 6, 8\), expected a height and width of at least 1"),
    ],
    ids=["array", "float64", "uint8", "empty"],
)
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_refuses_what_is_no_map_of_its_numbers(x, words, grad):
    with torch.set_grad_enabled(grad), pytest.raises(ValueError, match=words):
        DCNv3(8, groups=2)(x)


def test_refuses_a_size_for_which_stride_and_padding_do_not_meet():
    layer = DCNv3(8, kernel_size=4, dw_kernel_size=3, stride=2, padding=1, groups=2)
    sizes, refused = set(), 0
    for size in range(4, 10):
        try:
            sizes.add(layer(torch.zeros(1, size, size, 8)).shape[1])
        except ValueError as error:
            refused += 1
            assert "choose padding so that the operator and the depthwise kernel agree" in str(error)
    assert sizes and refused


@pytest.mark.parametrize("options", [{}, {"norm_layer": "BN"}, {"center_feature_scale": True}], ids=str)
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_an_empty_batch(options, grad):
    layer = make(torch.float32, **options).eval()
    with torch.set_grad_enabled(grad):
        assert layer(torch.zeros(0, 5, 6, 12)).shape == (0, 5, 6, 12)


def test_batch_norm_keeps_running_numbers_and_uses_them():
    layer = make(norm_layer="BN")
    assert layer.dw_norm.eps == 1e-5
    layer(picture(layer))
    assert layer.dw_norm.num_batches_tracked == 1 and layer.dw_norm.running_mean.any()
    layer.eval()
    assert_close(layer(picture(layer)[:1]), layer(picture(layer))[:1], "module")


def test_a_channels_first_tensor_seen_as_channels_last():
    layer = make()
    x = picture(layer)
    assert_close(layer(x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)), layer(x), "module")
    with torch.no_grad():
        layer, x = layer.float(), x.float()
        assert_close(layer(x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)), layer(x), "module")


def test_the_backend_asked_for_is_the_one_used():
    with pytest.raises(BackendError, match="no backend 'cuda'"):
        DCNv3(8, groups=2, backend="cuda")
    layer, other = make(backend="reference"), make(backend="grid_sample")
    assert_close(layer(picture(layer)), other(picture(other)), "module")


def test_copies_and_state_dicts():
    layer = make(center_feature_scale=True)
    x = picture(layer)
    twin = DCNv3(12, groups=2, center_feature_scale=True).double()
    twin.load_state_dict(layer.state_dict())
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for other in (twin, copy.deepcopy(layer), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), layer(x))


def test_repr_names_the_geometry():
    text = repr(DCNv3(8, (3, 5), padding=(1, 2), groups=2, offset_scale=2.0))
    assert "channels=8, kernel_size=(3, 5), stride=(1, 1), padding=(1, 2)" in text and "offset_scale=2.0" in text


def test_builds_on_the_meta_device():
    with torch.device("meta"):
        layer = DCNv3(64, groups=4, stride=2)
        assert layer(torch.empty(2, 9, 8, 64)).shape == (2, 5, 4, 64)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_trains(half):
    layer = make(torch.float32)
    x = picture(layer)
    want = layer(x)
    with torch.autocast("cpu", half):
        got = layer(x)
        got.float().square().sum().backward()
    assert got.dtype == half
    assert_close(got, want.detach(), "module")
    assert all(
        parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all() for parameter in layer.parameters()
    )


def test_compiles_into_one_graph():
    torch.compiler.reset()
    layer = make(torch.float32, center_feature_scale=True)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((2, 8, 7), (1, 5, 9)):
        x = picture(layer, size)
        want, got = layer(x), compiled(x)
        assert_close(got, want.detach().double(), "module")
        wanted = torch.autograd.grad(want.sum(), list(layer.parameters()))
        for a, b in zip(torch.autograd.grad(got.sum(), list(layer.parameters())), wanted, strict=True):
            assert_close(a, b.double(), "module gradient")
    torch.compiler.reset()


@pytest.mark.parametrize("strict", [False, True], ids=["non_strict", "strict"])
@pytest.mark.parametrize("stride", [1, 2], ids=["stride1", "stride2"])
def test_exports_without_a_custom_operator(strict, stride):
    layer = make(torch.float32, stride=stride).eval()
    sizes = ({0: Dim.DYNAMIC, 1: Dim.DYNAMIC, 2: Dim.DYNAMIC},)
    program = torch.export.export(layer, (picture(layer),), dynamic_shapes=sizes, strict=strict)
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("grid_sampler" in target for target in targets)
    assert not any("internimage" in target for target in targets)
    for size in ((1, 6, 6), (3, 5, 11)):
        x = picture(layer, size)
        assert_close(program.module()(x), layer(x).detach().double(), "module")


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("options", [{}, {"use_dcn_v4_op": True}], ids=str)
def test_hooks_on_its_parts_are_called(options, grad):
    layer = make(torch.float32, **options)
    seen = []
    for name, part in layer.named_children():
        part.register_forward_hook(lambda module, args, output, name=name: seen.append(name))
    with torch.set_grad_enabled(grad):
        layer(picture(layer))
    assert sorted(seen) == sorted(name for name, _ in layer.named_children())


class Adapter(nn.Module):
    """A linear layer and what is learned beside it, as of LoRA."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear, self.beside = linear, nn.Linear(linear.in_features, linear.out_features)

    @property
    def weight(self) -> Tensor:
        return self.linear.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.beside(x)


@pytest.mark.parametrize("options", [{}, {"use_dcn_v4_op": True}], ids=str)
def test_adapters_in_the_place_of_its_parts_count_and_learn(options):
    layer = make(**options)
    want = copy.deepcopy(layer)
    adapters = []
    for name in ("offset", "mask", "input_proj", "output_proj"):
        adapters.append(Adapter(getattr(layer, name)).double())
        setattr(layer, name, adapters[-1])
        merged = getattr(want, name)
        merged.weight.data += adapters[-1].beside.weight.data
        merged.bias.data += adapters[-1].beside.bias.data
    x = picture(layer)
    output = layer(x)
    assert_close(output, want(x), "module")
    output.square().sum().backward()
    assert all(parameter.grad.any() for adapter in adapters for parameter in adapter.beside.parameters())
    with torch.no_grad():
        assert_close(layer(x), want(x), "module")
