"""The fused passes of inference against the modules they stand for, and when they step aside."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import StochasticDepth

from internimage.layers.convolution import ChannelsLastConv2d
from internimage.layers.mlp import MLP
from internimage.layers.norm import layer_norm
from internimage.models import create_model
from internimage.ops import fused, native
from tests.tolerances import assert_close

from .cases import needs_kernel
from .strategies import pairs

pytestmark = needs_kernel
HALF_AND_SINGLE = [torch.float32, torch.bfloat16, torch.float16]
LEVELS = ["baseline", "avx2", "avx512"]


@pytest.fixture(params=LEVELS)
def level(request):
    """Each instruction set that this machine has."""
    best = native.instruction_set()
    if not native.library().internimage_set_instruction_set(request.param.encode()):
        pytest.skip(f"this machine has no {request.param}")
    yield request.param
    native.library().internimage_set_instruction_set(best.encode())


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.no_grad()
def depthwise_branch(channels: int, kernel: tuple[int, int], stride: tuple[int, int], dtype: torch.dtype):
    padding = ((kernel[0] - 1) // 2, (kernel[1] - 1) // 2)
    conv = ChannelsLastConv2d(channels, channels, kernel, stride, padding, groups=channels)
    norm = layer_norm(channels)
    for seed, parameter in enumerate([*conv.parameters(), *norm.parameters()]):
        parameter.copy_(normal(*parameter.shape, seed=seed))
    return conv.to(dtype), norm.to(dtype)


@settings(max_examples=60)
@given(
    channels=st.integers(1, 140),
    size=st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(1, 9)),
    kernel=pairs(1, 7),
    stride=pairs(1, 3),
    dtype=st.sampled_from(HALF_AND_SINGLE),
)
def test_depthwise_norm_gelu_is_the_three_modules(channels, size, kernel, stride, dtype):
    conv, norm = depthwise_branch(channels, kernel, stride, dtype)
    x = normal(*size, channels).to(dtype)
    if min(conv.padding[axis] * 2 + size[axis + 1] - kernel[axis] for axis in (0, 1)) < 0:
        return  # the kernel does not fit
    want = nn.GELU()(copy.deepcopy(norm).double()(copy.deepcopy(conv).double()(x.double())))
    got = fused.depthwise_norm_gelu(x, conv, norm)
    assert got.dtype == dtype
    assert_close(got, want.detach(), "fused pass")


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE, ids=str)
def test_depthwise_norm_gelu_on_every_instruction_set(level, dtype):
    for channels in (3, 16, 64, 67):
        conv, norm = depthwise_branch(channels, (3, 3), (1, 1), dtype)
        x = normal(1, 5, 6, channels).to(dtype)
        want = nn.GELU()(copy.deepcopy(norm).double()(copy.deepcopy(conv).double()(x.double())))
        assert_close(fused.depthwise_norm_gelu(x, conv, norm), want.detach(), "fused pass")


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE, ids=str)
@pytest.mark.parametrize("channels", [1, 7, 16, 48, 65])
def test_bias_and_gelu(level, channels, dtype):
    x, bias = (normal(11, channels) * 3).to(dtype), normal(channels, seed=1).to(dtype)
    want = nn.GELU()(x.double() + bias.double())
    assert_close(fused.add_bias_gelu_(x.clone(), bias), want, "fused pass")


@pytest.mark.parametrize("onednn", [True, False], ids=["oneDNN", "F.linear"])
@pytest.mark.parametrize("dtype", HALF_AND_SINGLE, ids=str)
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "strided"])
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("added", [True, False], ids=["residual", "alone"])
@torch.no_grad()
def test_linear_layer_and_what_is_added_to_it(onednn, dtype, packed, biased, added, monkeypatch):
    if not onednn:
        monkeypatch.setattr(fused, "_ONEDNN", None)
    step = 1 if packed else 2
    x, weight = normal(2, 3, 5, 7 * step).to(dtype)[..., ::step], normal(11, 7 * step, seed=1).to(dtype)[:, ::step]
    bias = normal(11 * step, seed=2).to(dtype)[::step] if biased else None
    residual = normal(2, 11, 3, 5, seed=3).to(dtype).permute(0, 2, 3, 1) if added else None
    if packed and added:
        residual = residual.contiguous()
    before = None if residual is None else residual.clone()
    want = x.double() @ weight.double().T
    want = want + sum(part.double() for part in (bias, residual) if part is not None)
    assert_close(fused.linear(x, weight, bias, residual), want, "fused pass")
    assert before is None or torch.equal(residual, before)


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE, ids=str)
@pytest.mark.parametrize("channels", [2, 7, 16, 48, 65])
@pytest.mark.parametrize("gelu", [False, True], ids=["norm", "norm_gelu"])
def test_norm_and_gelu(level, channels, dtype, gelu):
    _, norm = depthwise_branch(channels, (1, 1), (1, 1), dtype)
    x = normal(2, 3, 4, channels).to(dtype)
    want = copy.deepcopy(norm).double()(x.double()).detach()
    got = fused.norm_gelu(x, norm, gelu)
    assert got.dtype == dtype
    assert_close(got, nn.GELU()(want) if gelu else want, "fused pass")


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE, ids=str)
@pytest.mark.parametrize("channels", [2, 7, 16, 48, 65])
@pytest.mark.parametrize("scaled", [False, True], ids=["bare", "scaled"])
def test_add_norm(level, channels, dtype, scaled):
    _, norm = depthwise_branch(channels, (1, 1), (1, 1), dtype)
    residual, x = normal(2, 3, 3, channels, seed=1).to(dtype), normal(2, 3, 3, channels).to(dtype)
    scale = normal(channels, seed=2).to(dtype) if scaled else None
    branch = copy.deepcopy(norm).double()(x.double()).detach()
    want = residual.double() + (branch if scale is None else scale.double() * branch)
    assert_close(fused.add_norm(residual, x, norm, scale), want, "fused pass")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_parameters_may_be_float32_beside_maps_of_half_types(level, dtype):
    conv, norm = depthwise_branch(20, (3, 3), (1, 1), torch.float32)
    x, bias = normal(1, 5, 6, 20).to(dtype), normal(20, seed=1).float()
    normed = copy.deepcopy(norm).double()(x.double()).detach()
    convolved = copy.deepcopy(norm).double()(copy.deepcopy(conv).double()(x.double())).detach()
    assert_close(fused.depthwise_norm_gelu(x, conv, norm), nn.GELU()(convolved), "fused pass")
    assert_close(fused.norm_gelu(x, norm, False), normed, "fused pass")
    assert_close(fused.add_bias_gelu_(x.clone(), bias), nn.GELU()(x.double() + bias.double()), "fused pass")


BLOCKS = {
    "dcnv3": ("internimage_t", {}),
    "dcnv4": ("flash_internimage_t", {}),
    "dcnv4_depthwise": ("flash_internimage_t", {"dw_kernel_size": 3}),
    "post_norm": ("internimage_t", {"post_norm": True}),
    "post_norm_scaled": ("internimage_s", {}),
    "post_norm_scaled_dcnv4": ("flash_internimage_l", {}),
    "blend": ("internimage_t", {"post_norm": True, "center_feature_scale": True, "dw_kernel_size": 5}),
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16], ids=str)
def test_a_block_gives_what_its_modules_give(name, dtype, monkeypatch):
    block = learned_block(*BLOCKS[name])
    x = normal(2, 5, 6, 16).to(dtype or torch.float32)
    want = copy.deepcopy(block).double()(x.double()).detach()
    around = torch.autocast("cpu", dtype) if dtype else contextlib.nullcontext()
    with torch.no_grad(), around:
        whole = not (dtype and block.scaled)  # learned scales make float32 maps there; the branches alone are fused
        assert fused.takes_all_of(block, x) == whole
        got = block(x)
        monkeypatch.setattr(fused, "_runs_here", lambda: False)
        plain = block(x)
    assert got.dtype == plain.dtype == (x.dtype if whole else torch.float32)
    assert_close(plain, want, "module", dtype or torch.float32)
    assert_close(got, want, "module", dtype or torch.float32)


@torch.no_grad()
def learned_block(name: str, config: dict) -> nn.Module:
    """A block of the first level as training leaves it: no parameter is zero."""
    model = create_model(name, channels=16, groups=(2, 4, 8, 16), depths=(1, 1, 1, 1), **config).eval()
    block = model.backbone.levels[0].blocks[0]
    for seed, parameter in enumerate(block.parameters()):
        parameter.copy_(normal(*parameter.shape, seed=seed) * (0.2 if parameter.dim() > 1 else 0.5))
    return block


def test_a_block_steps_aside_for_whoever_watches_or_changes_a_part():
    block, x = learned_block("internimage_t", {}), normal(1, 5, 6, 16).float()
    with torch.no_grad():
        assert fused.takes_all_of(block, x)
        for name, part in list(block.named_modules()):
            handle = part.register_forward_hook(lambda *_: None)
            assert not fused.takes_all_of(block, x), f"a hook on {name!r}"
            handle.remove()
        handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
        assert not fused.takes_all_of(block, x), "a hook on all modules"
        handle.remove()
        with FlopCounterMode(display=False):
            assert not fused.takes_all_of(block, x), "somebody counts the operators"
        for change in (
            lambda b: b.train(),
            lambda b: setattr(b.mlp, "act", nn.GELU("tanh")),
            lambda b: setattr(b.dcn, "mask", nn.Sequential(b.dcn.mask)),
            lambda b: setattr(b, "drop_path", nn.Dropout(0.5)),
            lambda b: setattr(b, "drop_path", StochasticDepth(0.5, "row")),  # fresh, hence in training
            lambda b: setattr(b.mlp.fc2, "forward", b.mlp.fc1.forward),
            lambda b: setattr(b.norm1, "bias", nn.Parameter(normal(16, 2).float()[:, 0])),
            lambda b: setattr(b, "norm2", nn.LayerNorm((6, 16))),
            lambda b: setattr(b.dcn.dw_conv, "padding_mode", "circular"),
            lambda b: setattr(b.dcn.dw_conv, "dilation", (2, 2)),
            lambda b: setattr(b.norm1, "bias", None),
        ):
            changed = copy.deepcopy(block)
            change(changed)
            assert not fused.takes_all_of(changed, x)
        assert not fused.takes_all_of(block, normal(1, 5, 6, 20).float()), "too many channels: PyTorch says so"
        assert fused.takes_all_of(block, x)


def test_a_convolution_of_few_patches():
    conv = ChannelsLastConv2d(6, 100, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
    x = normal(2, 5, 4, 6).float()
    assert conv._has_few_patches(x)
    with torch.no_grad():
        got = conv(x)
    assert_close(got, copy.deepcopy(conv).double()(x.double()).detach(), "module")


def test_convolutions_without_a_bias():
    few = ChannelsLastConv2d(6, 64, 3, stride=2, padding=1, bias=False)
    branch, norm = depthwise_branch(20, (3, 3), (1, 1), torch.float32)
    branch.bias = None
    x, wide = normal(1, 4, 4, 6).float(), normal(1, 5, 6, 20).float()
    with torch.no_grad():
        assert fused.takes(x, few) and few._has_few_patches(x)
        assert_close(few(x), copy.deepcopy(few).double()(x.double()), "module")
        want = nn.GELU()(copy.deepcopy(norm).double()(copy.deepcopy(branch).double()(wide.double())))
        assert_close(fused.depthwise_norm_gelu(wide, branch, norm), want, "fused pass")


def test_gelu_is_exact_over_its_whole_range(level):
    x = torch.cat((torch.linspace(-9, 9, 20001), torch.tensor([0.0, -0.0, 1e30, -1e30, 1e-30])))
    got = fused.add_bias_gelu_(x.clone().unsqueeze(-1), torch.zeros(1)).squeeze(-1).double()
    want = nn.GELU()(x.double())
    assert ((got - want).abs() <= 3e-7 * x.abs().clamp_min(0.1)).all()  # torch's own float32 GELU: up to 3.5e-7
    special = fused.add_bias_gelu_(torch.tensor([[float("nan")], [float("inf")]]), torch.zeros(1))
    assert special[0].isnan() and special[1] == float("inf")


def test_a_nan_pixel_stays_within_the_kernel(level):
    conv, norm = depthwise_branch(20, (3, 3), (1, 1), torch.float32)
    x = normal(1, 7, 8, 20).float()
    x[0, 2, 3, 5] = float("nan")
    got = fused.depthwise_norm_gelu(x, conv, norm).isnan().any(-1)[0]
    near = torch.zeros(7, 8, dtype=torch.bool)
    near[1:4, 2:5] = True
    assert torch.equal(got, near)


def test_the_bits_do_not_depend_on_how_the_work_is_shared(shared_in_parts):
    conv, norm = depthwise_branch(33, (5, 5), (1, 1), torch.float32)
    x = normal(2, 30, 31, 33).float()
    want = fused.depthwise_norm_gelu(x, conv, norm)
    for parts in (2, 3, 7):
        with shared_in_parts(parts):
            assert torch.equal(fused.depthwise_norm_gelu(x, conv, norm), want)


@pytest.mark.parametrize("layout", ["packed", "channels_first", "expanded", "sliced", "vector"])
@pytest.mark.parametrize("large", [False, True], ids=["whole", "in slices"])
def test_mlp_takes_any_layout(layout, large, monkeypatch):
    if large:
        monkeypatch.setattr("internimage.layers.mlp._LARGE", 0)
        monkeypatch.setattr("internimage.layers.mlp._SLICE", 24 * 7)
    torch.manual_seed(0)
    mlp, x = MLP(6, 24), normal(2, 4, 5, 6).float()
    x = {
        "packed": lambda: x,
        "channels_first": lambda: x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        "expanded": lambda: x[:1].expand(3, -1, -1, -1),
        "sliced": lambda: torch.cat((x, x), -1)[..., 3:9],
        "vector": lambda: x[0, 0, 0],
    }[layout]()
    before = x.clone()
    with torch.no_grad():
        got = mlp(x)
    assert_close(got, mlp.double()(x.double()).detach(), "module")
    assert torch.equal(x, before)


def test_steps_aside():
    mlp, x = MLP(8, 16), torch.zeros(2, 8)

    def takes(x: Tensor = x) -> bool:
        return fused.takes(x, mlp.fc1, mlp.act)

    assert not takes(), "training"
    with torch.no_grad():
        assert takes()
        assert not takes(x.double()), "another dtype than the parameters"
        assert not takes(x[:0]), "nothing to do"
        assert not takes(x.to("meta"))
        assert not takes(nn.Parameter(x)), "a subclass may mean something else"
        with torch.autocast("cpu", torch.bfloat16):
            assert not takes(), "a float32 map stays float32 where modules would keep it"
            assert takes(x.bfloat16())
            assert not takes(x.half())
        mlp.double()
        assert not takes(x.double()), "float64 stays with PyTorch"
        mlp.float()
        handle = mlp.act.register_forward_hook(lambda *_: None)
        assert not takes(), "somebody watches"
        handle.remove()
        assert takes()


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")  # torch's own, in its forward mode
def test_a_derivative_in_forward_mode_is_not_lost():
    mlp, x = MLP(8, 16), torch.randn(2, 8)
    with torch.no_grad(), forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        assert not fused.takes_all_of(mlp, dual) and fused.takes_all_of(mlp, x)


@pytest.mark.parametrize("backend, expected", [("reference", False), ("cpu", True), ("", True)])
def test_the_environments_backend_holds_here_too(backend, expected, monkeypatch):
    monkeypatch.setenv("INTERNIMAGE_BACKEND", backend)
    mlp = MLP(8, 16)
    with torch.no_grad():
        assert fused.takes(torch.zeros(2, 8), mlp.fc1, mlp.act) == expected
