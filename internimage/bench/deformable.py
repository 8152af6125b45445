"""DCNv3 and DCNv4 as the benchmark sees them. Kernel 3x3, stride 1, padding 1, offset scale 1.

N images, H W size, G groups, D channels per group, P taps, L = H*W. The ``fixed`` part of a call is G.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import dcnv3, dcnv4
from ..ops.dcnv3 import reference
from ..ops.dcnv4 import pack_offset_mask
from ..ops.dcnv4.packed import unpack
from ..ops.geometry import Geometry
from . import peers
from .operators import BACKENDS, COMPILER, OURS, Form, Inputs, Operator, Wanted, compiled, in_float32
from .shapes import MAP_NOTATION, MapShape, parse_map
from .work import BOTH, FORWARD

OFF_GRID_LINES = 0.02  # px; on a grid line the offset gradient jumps, and forms may differ there without being wrong
_TAPS = 9


def _pyramid(height: int, width: int, channels: int, groups: int, batch: int = 1) -> tuple[MapShape, ...]:
    """Four levels: each half as large as the one before, with twice its channels and groups."""
    return tuple(
        MapShape(height >> level, width >> level, channels << level, groups << level, batch) for level in range(4)
    )


def _sets(channels: int) -> dict[str, tuple[MapShape, ...]]:
    return {
        "224": _pyramid(56, 56, channels, 4),
        "800x1216": _pyramid(200, 304, channels, 4),
        "64x224": _pyramid(56, 56, channels, 4, batch=64),
        "2x800x1216": _pyramid(200, 304, channels, 4, batch=2),
        "quick": (MapShape(14, 14, 64, 4), MapShape(7, 7, 512, 32)),
    }


USUAL = {"cpu": ("224", "800x1216"), "cuda": ("64x224", "800x1216")}


def scattered_offsets(shape: MapShape, generator: torch.Generator) -> Tensor:
    """Two pixels standard deviation, each its own, which is as scattered as sampling gets, and off the grid lines."""
    size = (shape.batch, shape.height, shape.width, 2 * shape.groups * shape.taps)
    offset = 2 * torch.randn(*size, generator=generator)
    cell = offset.floor()
    return cell + (offset - cell).clamp(OFF_GRID_LINES, 1 - OFF_GRID_LINES)


def make_dcnv3(shape: MapShape, seed: int = 0) -> Inputs:
    """Float32; masks are a softmax over the taps."""
    generator = torch.Generator().manual_seed(seed)
    size = (shape.batch, shape.height, shape.width)
    offset = scattered_offsets(shape, generator)
    mask = torch.randn(*size, shape.groups, shape.taps, generator=generator).softmax(-1).flatten(-2)
    input, grad = (torch.randn(*size, shape.channels, generator=generator) for _ in range(2))
    return Inputs({"input": input, "offset": offset, "mask": mask}, grad, shape.groups)


def make_dcnv4(shape: MapShape, seed: int = 0) -> Inputs:
    """Float32; masks are raw numbers of either sign."""
    inputs = make_dcnv3(shape, seed)
    mask = 3 * inputs.tensors["mask"] - 0.5
    packed = pack_offset_mask(inputs.tensors["offset"], mask, shape.groups)
    return Inputs({"input": inputs.tensors["input"], "offset_mask": packed}, inputs.grad_output, shape.groups)


def exact_dcnv3(inputs: Inputs) -> tuple[Tensor, ...]:
    """Output and the gradients of input, offset and mask by the reference in float64, one group after the other."""
    tensors = [t.double().unflatten(-1, (inputs.fixed, -1)) for t in (*inputs.tensors.values(), inputs.grad_output)]
    parts = []
    for group in range(inputs.fixed):
        *arguments, grad_output = (tensor[..., group, :] for tensor in tensors)
        leaves = [argument.detach().requires_grad_() for argument in arguments]
        output = reference.dcnv3(*leaves, Geometry())  # type: ignore[call-arg]
        parts.append((output.detach(), *torch.autograd.grad(output, leaves, grad_output)))
    return tuple(torch.cat(part, -1) for part in zip(*parts, strict=True))


def exact_dcnv4(inputs: Inputs) -> tuple[Tensor, ...]:
    """The same for packed offsets and masks."""
    output, grad_input, grad_offset, grad_mask = exact_dcnv3(unpacked(inputs))
    return output, grad_input, pack_offset_mask(grad_offset, grad_mask, inputs.fixed)


def unpacked(inputs: Inputs) -> Inputs:
    """The same sampling as DCNv3 takes it."""
    offset, mask = unpack(inputs.tensors["offset_mask"], Geometry(groups=inputs.fixed))
    tensors = {"input": inputs.tensors["input"], "offset": offset.flatten(-2), "mask": mask.flatten(-2)}
    return Inputs(tensors, inputs.grad_output, inputs.fixed)


def gs(input: Tensor, offset: Tensor, mask: Tensor, groups: int) -> Tensor:
    """``grid_sample`` on a (N, H, W, G, P, 2) grid of positions: how the formula is usually written."""
    n, h, w, c = input.shape
    x, y = reference.sampling_locations(offset, Geometry(groups=groups))  # (N, H, W, G, P)
    grid = torch.stack(((2 * x + 1) / w - 1, (2 * y + 1) / h - 1), -1)
    grid = grid.permute(0, 3, 1, 2, 4, 5).reshape(n * groups, h * w, -1, 2)
    values = input.reshape(n, h * w, c).transpose(1, 2).reshape(n * groups, c // groups, h, w)
    sampled = F.grid_sample(values, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    weights = mask.reshape(n, h * w, groups, -1).transpose(1, 2).reshape(n * groups, 1, h * w, -1)
    output = (sampled * weights).sum(-1)  # (N*G, D, L)
    return output.reshape(n, c, h * w).transpose(1, 2).reshape(n, h, w, c)


def _packed(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A form of DCNv3 on DCNv4's packed tensor."""

    def form(input: Tensor, offset_mask: Tensor, groups: int) -> Tensor:
        offset, mask = unpack(offset_mask, Geometry(groups=groups))
        return run(input, offset.flatten(-2), mask.flatten(-2), groups)

    return form


def _backend3(name: str) -> Callable[..., Tensor]:
    return lambda input, offset, mask, groups: dcnv3(input, offset, mask, groups=groups, backend=name)


def _backend4(name: str) -> Callable[..., Tensor]:
    return lambda input, offset_mask, groups: dcnv4(input, offset_mask, groups=groups, backend=name)


def forms_dcnv3(device: str) -> dict[str, Form]:
    """On a kind of device, in the order of the tables."""
    return {
        OURS: Form(_backend3(BACKENDS[device])),
        "gs": Form(in_float32(gs)),
        "gs4": Form(in_float32(_backend3("grid_sample"))),
        **({"gs compiled": Form(compiled(in_float32(gs)), COMPILER)} if device == "cuda" else {}),
        "reference": Form(_backend3("reference"), seldom=True),
        "deform_conv2d": Form(in_float32(torchvision_form), "torchvision", True, for_torchvision, from_torchvision),
        "deformops": Form(deformops_form, "deformops", False, for_deformops, from_deformops),
    }


def forms_dcnv4(device: str) -> dict[str, Form]:
    """The same for packed offsets and masks; what others want packed differently is packed before it is timed."""
    return {
        OURS: Form(_backend4(BACKENDS[device])),
        "gs": Form(in_float32(_packed(gs))),
        "gs4": Form(in_float32(_backend4("grid_sample"))),
        **({"gs compiled": Form(compiled(in_float32(_packed(gs))), COMPILER)} if device == "cuda" else {}),
        "reference": Form(_backend4("reference"), seldom=True),
        "deform_conv2d": Form(
            in_float32(torchvision_form),
            "torchvision",
            True,
            lambda inputs: for_torchvision(unpacked(inputs)),
            lambda grads, inputs: _repacked(from_torchvision(grads, unpacked(inputs)), inputs),
        ),
        "deformops": Form(
            deformops_form,
            "deformops",
            False,
            lambda inputs: for_deformops(unpacked(inputs)),
            lambda grads, inputs: _repacked(from_deformops(grads, unpacked(inputs)), inputs),
        ),
        "DCNv4": Form(dcnv4_package_form, "dcnv4", why_not=_dcnv4_package_refuses),
    }


def _repacked(grads: tuple[Tensor, ...], inputs: Inputs) -> tuple[Tensor, ...]:
    grad_input, grad_offset, grad_mask = grads
    return grad_input, pack_offset_mask(grad_offset, grad_mask, inputs.fixed)


def for_torchvision(inputs: Inputs) -> tuple[Tensor, ...]:
    """NCHW maps; it counts taps y-major, and y before x."""
    input, offset, mask = inputs.tensors.values()
    n, h, w, _ = input.shape
    offset = offset.reshape(n, h, w, inputs.fixed, 3, 3, 2).flip(-1).permute(0, 3, 5, 4, 6, 1, 2).reshape(n, -1, h, w)
    mask = mask.reshape(n, h, w, inputs.fixed, 3, 3).permute(0, 3, 5, 4, 1, 2).reshape(n, -1, h, w)
    return input.permute(0, 3, 1, 2).contiguous(), offset.contiguous(), mask.contiguous()


def from_torchvision(grads: tuple[Tensor, ...], inputs: Inputs) -> tuple[Tensor, ...]:
    """Gradients in our layout."""
    grad_input, grad_offset, grad_mask = grads
    n, h, w, _ = inputs.tensors["input"].shape
    grad_offset = grad_offset.reshape(n, inputs.fixed, 3, 3, 2, h, w).permute(0, 5, 6, 1, 3, 2, 4).flip(-1)
    grad_mask = grad_mask.reshape(n, inputs.fixed, 3, 3, h, w).permute(0, 4, 5, 1, 3, 2)
    return grad_input.permute(0, 2, 3, 1), grad_offset.reshape(n, h, w, -1), grad_mask.reshape(n, h, w, -1)


def torchvision_form(input: Tensor, offset: Tensor, mask: Tensor, groups: int) -> Tensor:
    """``torchvision.ops.deform_conv2d`` with a weight of ones a channel, in its own layout but for the output."""
    ones = input.new_ones(input.shape[1], 1, 3, 3)
    output = peers.module("torchvision").deform_conv2d(input, offset, ones, padding=1, mask=mask)
    return output.permute(0, 2, 3, 1)


def for_deformops(inputs: Inputs) -> tuple[Tensor, ...]:
    """One packed tensor with x, y and mask of a tap side by side."""
    input, offset, mask = inputs.tensors.values()
    n, h, w, _ = input.shape
    offset = offset.reshape(n, h, w, inputs.fixed * _TAPS, 2)
    return input, torch.cat((offset, mask.unsqueeze(-1)), -1).flatten(-2)


def from_deformops(grads: tuple[Tensor, ...], inputs: Inputs) -> tuple[Tensor, ...]:
    """Gradients of offset and mask apart."""
    grad_input, grad_packed = grads
    taps = grad_packed.unflatten(-1, (-1, 3))
    return grad_input, taps[..., :2].flatten(-2), taps[..., 2]


def deformops_form(input: Tensor, packed: Tensor, groups: int) -> Tensor:
    """The single-scale sampling of the package ``deformops``."""
    depth = input.shape[-1] // groups
    return peers.module("deformops").attn(input, packed, kernel_size=3, padding=1, groups=groups, group_dims=depth)


def dcnv4_package_form(input: Tensor, offset_mask: Tensor, groups: int) -> Tensor:
    """The released operator: kernel, stride, padding, dilation, groups, channels a group, scale, step, centre kept."""
    function = peers.module("dcnv4").DCNv4Function.apply
    depth = input.shape[-1] // groups
    return function(input, offset_mask, 3, 3, 1, 1, 1, 1, 1, 1, groups, depth, 1.0, 256, False)


def _dcnv4_package_refuses(inputs: Inputs) -> str:
    input = inputs.tensors["input"]
    if input.device.type != "cuda":
        return "takes tensors on a card only"
    if input.dtype not in (torch.float16, torch.float32):
        return "its backward works in float16 and float32 only"
    return "takes multiples of 16 channels a group only" if input.shape[-1] // inputs.fixed % 16 else ""


DCNV3 = Operator(
    name="dcnv3",
    sets=_sets(64),
    usual=USUAL,
    parse=parse_map,
    notation=MAP_NOTATION,
    make=make_dcnv3,
    exact=exact_dcnv3,
    forms=forms_dcnv3,
    plain=("gs", "gs4"),
    wanted=(
        Wanted(("56x56x64/4", "200x304x64/4"), FORWARD, 8.0),
        Wanted(("56x56x64/4", "200x304x64/4"), BOTH, 5.0),
    ),
)
DCNV4 = Operator(
    name="dcnv4",
    sets=_sets(128),
    usual=USUAL,
    parse=parse_map,
    notation=MAP_NOTATION,
    make=make_dcnv4,
    exact=exact_dcnv4,
    forms=forms_dcnv4,
    plain=("gs", "gs4"),
    wanted=(
        Wanted(("56x56x128/4", "200x304x128/4"), FORWARD, 8.0, aim=12.0),
        Wanted(("56x56x128/4", "200x304x128/4"), BOTH, 5.0, aim=8.0),
    ),
)
