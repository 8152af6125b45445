"""The DCNv4 layer: initial values, every option against the sum of its parts, pixels in one row, what it refuses."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internimage.layers import DCNv3, DCNv4
from internimage.ops import BackendError, dcnv4
from tests.tolerances import assert_close

OPTIONS = {
    "default": {},
    "dw_kernel_size": {"dw_kernel_size": 3},
    "dw_kernel_pair": {"dw_kernel_size": (5, 1)},
    "softmax": {"softmax": True},
    "center_feature_scale": {"center_feature_scale": True},
    "remove_center": {"remove_center": True},
    "no_output_bias": {"output_bias": False},
    "without_pointwise": {"without_pointwise": True},
    "without_pointwise_blended": {"without_pointwise": True, "center_feature_scale": True},
    "offset_scale": {"offset_scale": 0.5},
    "kernel5": {"kernel_size": 5, "padding": 2},
    "kernel_pair": {"kernel_size": (3, 5), "padding": (1, 2)},
    "even_kernel": {"kernel_size": 2, "padding": 0},
    "even_kernel_and_stride": {"kernel_size": 4, "stride": 2},
    "dilation": {"padding": 2, "dilation": 2},
    "stride2": {"stride": 2},
    "stride2_dw": {"stride": 2, "dw_kernel_size": 3},
    "stride_pair": {"stride": (1, 3)},
    "no_padding": {"padding": 0},
    "no_padding_dw": {"padding": 0, "dw_kernel_size": 3},
    "wide_padding": {"padding": (3, 2), "stride": 2},
    "wide_padding_dw": {"padding": (3, 2), "stride": 2, "dw_kernel_size": 3},
    "dilation_without_padding": {"padding": 0, "dilation": (2, 1)},
    "odd_channels": {"channels": 15, "groups": 3},
    "one_channel_groups": {"channels": 5, "groups": 5},
}
EVERY_OPTION = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def make(dtype: torch.dtype = torch.float64, **options) -> DCNv4:
    """A layer whose offsets and masks are not at zero."""
    torch.manual_seed(0)
    layer = DCNv4(**{"channels": 12, "groups": 2, **options})
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer.to(dtype)


def picture(layer: DCNv4, size: tuple[int, int, int] = (2, 8, 7)) -> Tensor:
    random = torch.Generator().manual_seed(1)
    numbers = torch.randn(*size, layer.channels, generator=random, dtype=torch.float64)
    return numbers.to(layer.offset_mask.weight.dtype)


def middles(x: Tensor, layer: DCNv4) -> Tensor:
    """What offsets are predicted from, pixel by pixel: the map, seen through the branch, at the middle of a kernel."""
    g = layer.geometry
    halves = [d * (k - 1) // 2 for d, k in zip(g.dilation, g.kernel_size, strict=True)]
    rows, columns = g.output_size(*x.shape[1:3])
    wide = F.pad(x, (0, 0, 9, 9, 9, 9))
    if "offset_mask_dw" in layer._modules:
        conv = layer.offset_mask_dw
        same = [(k - 1) // 2 for k in conv.kernel_size]
        wide = F.conv2d(wide.permute(0, 3, 1, 2), conv.weight, conv.bias, padding=same, groups=layer.channels)
        wide = wide.permute(0, 2, 3, 1)
    pixels = [
        wide[:, 9 + half_y - g.padding[0] + y * g.stride[0], 9 + half_x - g.padding[1] + x * g.stride[1]]
        for half_y, half_x in [halves]
        for y in range(rows)
        for x in range(columns)
    ]
    return torch.stack(pixels, 1).unflatten(1, (rows, columns))


def sum_of_parts(layer: DCNv4, x: Tensor) -> Tensor:
    """The module in plain steps, with the public operator."""
    g = layer.geometry
    values = layer.value_proj(x) if "value_proj" in layer._modules else x
    output = dcnv4(
        values,
        layer.offset_mask(middles(x, layer)),
        g.kernel_size,
        stride=g.stride,
        padding=g.padding,
        dilation=g.dilation,
        groups=g.groups,
        offset_scale=g.offset_scale,
        remove_center=g.remove_center,
        softmax=layer.softmax,
        backend="reference",
    )
    if layer.center_feature_scale:
        scale = layer.center_feature_scale_proj(output).sigmoid().repeat_interleave(layer.channels // g.groups, -1)
        output = output * (1 - scale) + values * scale
    return layer.output_proj(output) if "output_proj" in layer._modules else output


@EVERY_OPTION
def test_forward_and_gradients_are_those_of_the_sum_of_its_parts(options):
    layer = make(**options)
    x = picture(layer).requires_grad_()
    want = sum_of_parts(layer, x)
    got = layer(x)
    assert_close(got, want, "module")
    leaves = [x, *layer.parameters()]
    grad_output = torch.randn_like(want)
    wanted = torch.autograd.grad(want, leaves, grad_output)
    for a, b in zip(torch.autograd.grad(got, leaves, grad_output), wanted, strict=True):
        assert_close(a, b, "module gradient")


@EVERY_OPTION
def test_inference_in_float32_gives_the_same_numbers(options):
    layer = make(torch.float32, **options)
    want = sum_of_parts(copy.deepcopy(layer).double(), picture(layer).double())
    with torch.no_grad():
        assert_close(layer(picture(layer)), want, "module")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_a_half_layer_stays_near_its_float64_self(dtype, grad):
    layer = make(dtype, dw_kernel_size=3, center_feature_scale=True)
    want = sum_of_parts(copy.deepcopy(layer).double(), picture(layer).double())
    with torch.set_grad_enabled(grad):
        got = layer(picture(layer))
    assert got.dtype == dtype
    assert_close(got.detach(), want, "module")


@pytest.mark.parametrize("options", [{}, {"dw_kernel_size": 3}, {"stride": 2}], ids=str)
def test_pixels_in_one_row_are_the_maps_flattened(options):
    layer = make(**options)
    x = picture(layer, (2, 6, 6))
    want = layer(x).flatten(1, 2)
    assert torch.equal(layer(x.flatten(1, 2)), want), "a square unless told"
    x = picture(layer)
    assert torch.equal(layer(x.flatten(1, 2), size=(8, 7)), layer(x).flatten(1, 2))


def test_refuses_pixels_that_are_no_map_of_their_size():
    layer = make()
    row = picture(layer).flatten(1, 2)
    with pytest.raises(ValueError, match=r"56 pixels in a row, which is no square: pass size=\(height, width\)"):
        layer(row)
    for size in ((7, 7), (8, 7, 1), (8.0, 7), (-8, -7), 56, torch.tensor([8, 7])):
        with pytest.raises(ValueError, match=r"size is .*, expected \(height, width\) of the 56 pixels"):
            layer(row, size=size)


def test_parameters_and_their_names():
    shapes = {name: tuple(value.shape) for name, value in DCNv4(80, groups=5, dw_kernel_size=3).state_dict().items()}
    assert shapes == {
        "offset_mask_dw.weight": (80, 1, 3, 3),
        "offset_mask_dw.bias": (80,),
        "offset_mask.weight": (136, 80),  # 5 groups of 9 taps: 135 numbers, rounded up
        "offset_mask.bias": (136,),
        "value_proj.weight": (80, 80),
        "value_proj.bias": (80,),
        "output_proj.weight": (80, 80),
        "output_proj.bias": (80,),
    }
    assert "output_proj.bias" not in DCNv4(64, output_bias=False).state_dict()
    assert {*DCNv4(64, without_pointwise=True).state_dict()} == {"offset_mask.weight", "offset_mask.bias"}
    assert DCNv4(48, groups=3, remove_center=True).offset_mask.weight.shape == (72, 48)


# Initial values


@pytest.mark.parametrize("init", ["released", "average"])
def test_projections_are_xavier_uniform(init):
    torch.manual_seed(0)
    layer = DCNv4(64, groups=4, init=init, center_feature_scale=True)
    for linear in (layer.value_proj, layer.output_proj):
        bound = math.sqrt(6 / (64 + 64))
        assert linear.weight.abs().max() <= bound and 0.9 < linear.weight.std() / (bound / math.sqrt(3)) < 1.1
        assert not linear.bias.any()
    assert not layer.offset_mask.weight.any()
    assert not layer.center_feature_scale_proj.weight.any() and not layer.center_feature_scale_proj.bias.any()


def test_a_layer_with_released_initial_values_gives_zeros_and_teaches_nothing_before_it():
    layer = DCNv4(12, groups=2)
    x = picture(layer).requires_grad_()
    output = layer(x)
    output.sum().backward()
    assert not output.any() and not x.grad.any()
    assert not layer.value_proj.weight.grad.any() and not layer.output_proj.weight.grad.any()
    assert layer.offset_mask.weight.grad.any(), "its masks move at the first step"


@pytest.mark.parametrize(
    "options",
    [{}, {"groups": 1}, {"dw_kernel_size": 3}, {"remove_center": True}, {"softmax": True}],
    ids=str,
)
def test_a_layer_that_starts_as_an_average_is_a_box_filter_between_its_projections(options):
    layer = DCNv4(12, **{"groups": 3, **options}, init="average")
    x = picture(layer)
    values = layer.value_proj(x).permute(0, 3, 1, 2)
    taps = 9 * F.avg_pool2d(values, 3, 1, 1) - (values if layer.geometry.remove_center else 0)
    box = (taps / layer.geometry.taps).permute(0, 2, 3, 1)
    assert_close(layer(x), layer.output_proj(box), "module")


def test_with_a_softmax_the_released_initial_values_are_an_average_too():
    released, average = (DCNv4(12, groups=2, softmax=True, init=init) for init in ("released", "average"))
    average.load_state_dict(released.state_dict())
    assert released(picture(released)).any()
    assert not average.offset_mask.bias.any()


def last_loss(init: str, steps: int = 30) -> tuple[float, float]:
    """Which half of the picture is brighter? A stem, two DCNv4 without residuals around them, a classifier.

    The loss after some steps, and that of the best constant answer.
    """
    torch.manual_seed(0)
    stem, first, second = nn.Conv2d(1, 16, 3, 2, 1), *(DCNv4(16, groups=2, init=init) for _ in "12")
    head = nn.Linear(16 * 16, 2)
    net = nn.ModuleList((stem, first, second, head))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(64, 1, 8, 8)
    target = (x[:, 0, :, :4].mean((1, 2)) > x[:, 0, :, 4:].mean((1, 2))).long()
    for _ in range(steps):
        features = F.silu(stem(x)).permute(0, 2, 3, 1)
        loss = F.cross_entropy(head(second(first(features)).flatten(1)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    taught = {name for name, parameter in net.named_parameters() if parameter.grad.any()}
    last = {"2.output_proj.bias", "3.weight", "3.bias"}
    assert taught == (last if init == "released" else {*dict(net.named_parameters())})
    return loss.item(), torch.distributions.Categorical(target.bincount() / 64.0).entropy().item()


def test_a_net_learns_with_the_average_start_and_cannot_with_the_released_one():
    """Two layers of zeros in a row: neither has values for its masks to choose from, so no mask ever moves."""
    average, constant = last_loss("average")
    assert average < 0.1 * constant
    released, constant = last_loss("released")
    assert released > 0.99 * constant


# Refusals, copies, graphs

REFUSED = {
    "channels_not_divisible": ({"channels": 10, "groups": 4}, "channels=10 is not a positive multiple of groups=4"),
    "channels_text": ({"channels": "64"}, "channels='64' is not a positive multiple"),
    "init": ({"init": "zeros"}, "init is 'zeros', expected one of 'released', 'average'"),
    "dw_kernel_size": ({"dw_kernel_size": (3, 0)}, r"dw_kernel_size is \(3, 0\), expected an int >= 1"),
    "remove_center_even": ({"kernel_size": 2, "padding": 0, "remove_center": True}, "odd on both axes"),
    "branch_too_narrow": ({"padding": 0, "dilation": 2, "dw_kernel_size": 3}, r"pass dw_kernel_size=\(5, 5\)"),
    "even_beside_odd": ({"kernel_size": 4, "dw_kernel_size": 3}, "their sizes never fit"),
    "blend_strided": ({"center_feature_scale": True, "stride": 2}, "must be of one size"),
    "blend_unpadded": ({"center_feature_scale": True, "padding": 0}, "must be of one size"),
}


@pytest.mark.parametrize("options, message", REFUSED.values(), ids=REFUSED)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        DCNv4(**{"channels": 64, **options})


def test_refuses_an_unknown_backend_when_it_is_built():
    with pytest.raises(BackendError, match="there is no backend 'cuda'"):
        DCNv4(64, backend="cuda")


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(1, 5, 6, 12).numpy(), "input is a ndarray, expected a torch.Tensor"),
        (torch.zeros(1, 5, 6, 12).double(), "input is torch.float64, expected torch.float32"),
        (torch.zeros(1, 12, 5, 6), r"expected \(N, H, W, 12\) or \(N, H\*W, 12\)"),
        (torch.zeros(12, 5), r"expected \(N, H, W, 12\)"),
        (torch.zeros(1, 0, 6, 12), "expected a height and width of at least 1"),
        (torch.zeros(1, 0, 12), "expected a height and width of at least 1"),
    ],
    ids=["array", "float64", "channels_first", "two_axes", "empty", "empty_row"],
)
@pytest.mark.parametrize("dw_kernel_size", [None, 3])
def test_refuses_what_is_no_map_of_its_numbers(x, words, dw_kernel_size):
    with pytest.raises(ValueError, match=words):
        DCNv4(12, groups=2, dw_kernel_size=dw_kernel_size)(x)


def test_refuses_a_size_for_which_branch_and_operator_do_not_meet():
    layer = DCNv4(8, kernel_size=4, dw_kernel_size=3, stride=2, groups=2)
    sizes, refused = set(), 0
    for size in range(4, 10):
        try:
            sizes.add(layer(torch.zeros(1, size, size, 8)).shape[1])
        except ValueError as error:
            refused += 1
            assert "choose padding so that the operator and the depthwise kernel agree" in str(error)
    assert sizes and refused


@pytest.mark.parametrize("options", [{}, {"center_feature_scale": True}], ids=str)
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_an_empty_batch(options, grad):
    with torch.set_grad_enabled(grad):
        assert make(torch.float32, **options)(torch.zeros(0, 5, 6, 12)).shape == (0, 5, 6, 12)


@pytest.mark.parametrize("options", [{}, {"output_bias": False}, {"without_pointwise": True}], ids=str)
def test_copies_pickles_and_files(options):
    layer = make(torch.float32, **options)
    x = picture(layer)
    want = layer(x)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), want)


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"padding": 0}, {"dw_kernel_size": 3}], ids=str)
def test_exports_with_any_size(options):
    from torch.export import Dim, export

    layer = make(torch.float32, **options)
    sizes = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC, 2: Dim.DYNAMIC}
    program = export(layer.eval(), (picture(layer),), dynamic_shapes=(sizes,))
    assert not [node for node in program.graph.nodes if "internimage" in str(node.target)]
    for size in ((1, 9, 13), (3, 12, 4)):
        other = picture(layer, size)
        assert_close(program.module()(other), sum_of_parts(layer, other), "module")


def test_the_layers_of_both_operators_name_their_arguments_alike():
    import inspect

    both = [inspect.signature(layer).parameters for layer in (DCNv3, DCNv4)]
    shared = [name for name in both[0] if name in both[1]]
    assert [*both[1]][:2] == [*both[0]][:2] == ["channels", "kernel_size"]
    assert shared == [name for name in both[1] if name in both[0]], "in one order"
    assert all(both[0][name].default == both[1][name].default for name in shared)
