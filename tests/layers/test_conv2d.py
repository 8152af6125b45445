"""Deformable layers in the place of a Conv2d survive what nets of other people do with theirs."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.export import Dim

from internimage.layers import DCNv3Conv2d, DCNv4Conv2d
from tests.tolerances import assert_close

BOTH = pytest.mark.parametrize("layer", [DCNv3Conv2d, DCNv4Conv2d])


@BOTH
@pytest.mark.parametrize(
    ("stride", "kernel", "size"), [(1, 3, (7, 8)), (2, 3, (7, 8)), ((2, 1), 5, (9, 6)), (1, 1, (4, 5))]
)
@pytest.mark.parametrize(("inward", "outward"), [(16, 16), (7, 12), (3, 8), (34, 5), (1, 2)])
def test_sizes_are_those_of_a_conv2d(layer, stride, kernel, size, inward, outward):
    x = torch.zeros(1, inward, *size)
    like = nn.Conv2d(inward, outward, kernel, stride, padding=(kernel - 1) // 2)
    made = layer(inward, outward, kernel, stride)
    assert made(x).shape == like(x).shape
    assert made.core.geometry.groups and inward % made.core.geometry.groups == 0


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (3, 1), (7, 1), (16, 1), (32, 2), (34, 2), (48, 3), (97, 1), (100, 5), (256, 16)]
)
def test_groups_have_about_sixteen_channels(channels, groups):
    assert DCNv4Conv2d(channels, 4).groups == groups


@BOTH
def test_a_small_net_learns(layer):
    """With DCNv4's released initial values the maps would stay zero, and the loss where it starts."""
    torch.manual_seed(0)
    net = nn.Sequential(
        layer(3, 8, 3, 2),
        nn.BatchNorm2d(8),
        nn.SiLU(),
        layer(8, 8),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )
    x = torch.randn(32, 3, 12, 12)
    target = (x[:, 0].mean((1, 2)) > 0).long()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        loss = nn.functional.cross_entropy(net(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.grad is not None for parameter in net.parameters())


@BOTH
@pytest.mark.parametrize("kernel", [1, 3, 5, (3, 7)], ids=str)
@pytest.mark.parametrize("padding", [0, 1, (4, 2)], ids=str)
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_any_padding_gives_the_sizes_of_a_conv2d(layer, kernel, padding, dilation, stride):
    options = {"dw_kernel_size": 13} if layer is DCNv3Conv2d else {}  # a branch that reaches the border in all of these
    made = layer(6, 4, kernel, stride, padding, dilation, **options)
    like = nn.Conv2d(6, 4, kernel, stride, padding, dilation)
    assert made.padding == like.padding and made.kernel_size == like.kernel_size
    for size in ((16, 14), (15, 17)):
        assert made(torch.zeros(1, 6, *size)).shape == like(torch.zeros(1, 6, *size)).shape


@BOTH
def test_padding_only_adds_a_border(layer):
    """What a layer without padding gives is the inner part of what one with padding gives."""
    torch.manual_seed(0)
    layers = [layer(6, 4, 3, padding=padding).eval() for padding in (0, 1, 2)]
    for parameter in layers[0].parameters():
        nn.init.normal_(parameter, std=0.3)
    for other in layers[1:]:
        other.load_state_dict(layers[0].state_dict())
    x = torch.randn(2, 6, 9, 8)
    bare, one, two = (other(x) for other in layers)
    assert_close(one[:, :, 1:-1, 1:-1], bare, "module")
    assert_close(two[:, :, 1:-1, 1:-1], one, "module")


class ConvBlock(nn.Module):
    """A YOLO block: convolution, batch norm, activation."""

    def __init__(self, layer, c_in: int, c_out: int, k: int = 1, s: int = 1, p: int | None = None, g: int = 1) -> None:
        super().__init__()
        self.conv = layer(c_in, c_out, k, s, p if p is not None else k // 2, groups=g, bias=False)
        self.bn = nn.BatchNorm2d(c_out)
        self.act = nn.SiLU()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


def detector(layer) -> nn.Sequential:
    """Blocks as a configuration file lists them: channels in and out, kernel, stride."""
    rows = [(3, 16, 6, 2, 2), (16, 24, 3, 2), (24, 24, 1, 1), (24, 40, 3, 2), (40, 7, 1, 1)]
    return nn.Sequential(*(ConvBlock(layer, *row) for row in rows))


@BOTH
def test_a_yolo_net_finds_its_stride_with_zeros_when_it_is_built(layer):
    net, size = detector(layer), 256
    with torch.no_grad():
        output = net(torch.zeros(1, 3, size, size))
    assert [size // side for side in output.shape[2:]] == [8, 8] and output.isfinite().all()


@BOTH
def test_every_parameter_of_a_yolo_net_takes_a_training_step(layer):
    torch.manual_seed(0)
    net, x = detector(layer).train(), torch.randn(2, 3, 32, 32)
    before = copy.deepcopy(net.state_dict())
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    still = {name for name, value in net.named_parameters() if torch.equal(value, before[name])}
    # the softmax over a single tap is one, whatever the mask
    of_one_tap = {f"{block}.conv.core.mask.{kind}" for block in (2, 4) for kind in ("weight", "bias")}
    assert still == (of_one_tap if layer is DCNv3Conv2d else set())
    assert all(parameter.isfinite().all() for parameter in net.parameters())


@BOTH
def test_copies_pickles_and_files(layer):
    torch.manual_seed(0)
    made, x = layer(8, 12, 3, 2).eval(), torch.randn(1, 8, 6, 6)
    want = made(x)
    file = io.BytesIO()
    torch.save(made, file)
    file.seek(0)
    other = layer(8, 12, 3, 2).eval()
    other.load_state_dict(made.state_dict())
    for again in (copy.deepcopy(made), pickle.loads(pickle.dumps(made)), torch.load(file, weights_only=False), other):
        assert torch.equal(again(x), want)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_runs_and_trains_in_every_dtype(layer, dtype):
    torch.manual_seed(0)
    made, x = layer(8, 12, 3, 2), torch.randn(2, 8, 6, 6)
    want = copy.deepcopy(made).double()(x.double()).detach()
    output = made.to(dtype)(x.to(dtype))
    assert output.dtype == dtype
    assert_close(output.detach(), want, "model", torch.float32 if dtype == torch.float64 else dtype)
    output.float().square().sum().backward()
    assert {parameter.grad.dtype for parameter in made.parameters()} == {dtype}


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_runs_and_trains_under_autocast(layer, dtype):
    torch.manual_seed(0)
    made, x = layer(8, 12, 3, 2), torch.randn(2, 8, 6, 6)
    want = made(x).detach()
    with torch.autocast("cpu", dtype):
        output = made(x)
    assert output.dtype == dtype
    assert_close(output.detach(), want, "model")
    output.float().square().sum().backward()
    assert {parameter.grad.dtype for parameter in made.parameters()} == {torch.float32}


@BOTH
def test_channels_last_maps_give_the_same_and_stay_channels_last(layer):
    torch.manual_seed(0)
    made, x = layer(8, 12, 3, 2).eval(), torch.randn(2, 8, 6, 7)
    want = made(x)
    made.to(memory_format=torch.channels_last)
    got = made(x.contiguous(memory_format=torch.channels_last))
    assert_close(got, want, "module")
    assert got.is_contiguous(memory_format=torch.channels_last)


@BOTH
@pytest.mark.parametrize("inward", [1, 8])
def test_a_contiguous_map_gives_one_that_can_be_viewed(layer, inward):
    output = layer(inward, 6, 3)(torch.randn(2, inward, 4, 5))
    assert output.is_contiguous() and output.view(2, -1).shape == (2, 120)


@BOTH
@pytest.mark.parametrize("shape", [(0, 8, 5, 5), (2, 8, 1, 1), (1, 8, 1, 9)], ids=str)
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_no_images_and_maps_of_one_pixel(layer, shape, grad):
    made, x = layer(8, 6, 3, 2), torch.zeros(shape, requires_grad=grad)
    with torch.set_grad_enabled(grad):
        output = made(x)
    assert output.shape == nn.Conv2d(8, 6, 3, 2, 1)(x).shape
    if grad:
        output.sum().backward()
        assert x.grad.shape == x.shape


@BOTH
def test_compiles_for_maps_of_any_size(layer):
    torch.compiler.reset()
    made = layer(8, 6, 3, 2)
    compiled = torch.compile(made, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((2, 8, 9, 7), (1, 8, 6, 12)):
        x = torch.randn(shape)
        want, got = made(x), compiled(x)
        assert_close(got, want, "module")
        got.sum().backward()
    torch.compiler.reset()


@BOTH
def test_exports_for_maps_of_any_size_without_a_custom_operator(layer):
    made = layer(8, 12, 3, 2).eval()
    sizes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    program = torch.export.export(made, (torch.randn(2, 8, 16, 12),), dynamic_shapes=(sizes,))
    assert not [node for node in program.graph.nodes if "internimage" in str(node.target)]
    for shape in ((1, 8, 11, 20), (3, 8, 5, 4)):
        x = torch.randn(shape)
        assert_close(program.module()(x), made(x), "module")


@BOTH
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_becomes_an_onnx_model_for_maps_of_any_size(layer, tmp_path):
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    made = layer(8, 12, 3, 2).eval()
    sizes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    program = torch.onnx.export(
        made, (torch.randn(2, 8, 16, 12),), dynamo=True, opset_version=20, dynamic_shapes=(sizes,)
    )
    program.save(tmp_path / "layer.onnx")
    session = runtime.InferenceSession(tmp_path / "layer.onnx")
    for shape in ((2, 8, 16, 12), (1, 8, 11, 20)):
        x = torch.randn(shape)
        (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert_close(torch.from_numpy(got), made(x), "module")


@BOTH
@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated and says so, once a shape that is looked at
def test_a_trace_gives_the_same(layer):
    made, x = layer(8, 12, 3, 2).eval(), torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        traced = torch.jit.trace(made, x)
        assert_close(traced(x), made(x), "module")


@BOTH
def test_what_walks_through_modules_finds_ordinary_ones(layer):
    """Counters, initialisers and decay rules look at types and at the number of axes of a weight."""
    made = layer(8, 12, 3, 2)
    assert {type(module).__module__.split(".")[0] for module in made.modules()} <= {"internimage", "torch"}
    assert made.apply(lambda module: module.requires_grad_(False)) is made
    assert not any(parameter.requires_grad for parameter in made.parameters())
    assert {parameter.dim() for parameter in made.parameters()} <= {1, 2, 4}
    assert "stride=(2, 2)" in repr(made)


@BOTH
def test_code_that_would_fuse_it_with_a_batch_norm_fails_and_does_not_go_wrong(layer):
    block = ConvBlock(layer, 8, 8, 3).eval()
    with pytest.raises(AttributeError, match="weight"):
        nn.utils.fusion.fuse_conv_bn_eval(block.conv, block.bn)


@BOTH
def test_refuses(layer):
    with pytest.raises(ValueError, match="in_channels is 0"):
        layer(0, 4)
    with pytest.raises(ValueError, match="not a positive multiple of groups=3"):
        layer(4, 4, groups=3)
    with pytest.raises(ValueError, match=r"expected \(N, 4, H, W\)"):
        layer(4, 4)(torch.zeros(1, 3, 8, 8))


@BOTH
@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), ((3, 5), 1)])
def test_padding_in_words_is_that_of_a_conv2d(layer, kernel, dilation):
    for words in ("same", "valid"):
        like = nn.Conv2d(6, 4, kernel, padding=words, dilation=dilation)(torch.zeros(1, 6, 11, 12))
        made = layer(6, 4, kernel, padding=words, dilation=dilation)
        assert made(torch.zeros(1, 6, 11, 12)).shape == like.shape


@BOTH
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"padding": "reflect"}, "padding is 'reflect', expected an int, a pair"),
        ({"padding": "same", "stride": 2}, 'padding="same" goes with stride 1'),
        ({"padding": "same", "kernel_size": 4}, 'padding="same" goes with stride 1 and a kernel'),
    ],
)
def test_padding_in_words_that_does_not_fit_is_refused(layer, options, error):
    with pytest.raises(ValueError, match=error):
        layer(6, 4, **options)
