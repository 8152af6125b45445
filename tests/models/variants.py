"""Small networks of every family, so that a sweep over all options takes seconds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import internimage

TINY = {"channels": 16, "depths": (1, 1, 2, 1), "groups": (1, 2, 4, 8)}

# What is told apart by more than its size; the option that a family is here for stands in its name.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "t": ("internimage_t", {}),
    "s_post_norm_and_layer_scale": ("internimage_s", {}),
    "l_offset_scale": ("internimage_l", {}),
    "h_res_post_norm_and_clip": ("internimage_h", {"level2_post_norm_block_ids": (0,)}),
    "g_post_norm_and_clip": ("internimage_g", {"level2_post_norm_block_ids": (0, 1)}),
    "bn_silu": ("internimage_t", {"norm_layer": "BN", "act_layer": "SiLU"}),
    "relu_remove_center": ("internimage_t", {"act_layer": "ReLU", "remove_center": True}),
    "t_on_the_operator_of_dcnv4": ("internimage_t", {"use_dcn_v4_op": True}),
    "flash_t": ("flash_internimage_t", {}),
    "flash_l_biases_and_depthwise": ("flash_internimage_l", {}),
    "prenorm_layer_scale": ("internimage_t", {"layer_scale": 1.0}),
    "dw_kernel_size": ("internimage_t", {"dw_kernel_size": 5, "mlp_ratio": 2.0, "cls_scale": 1.0}),
}
CLIP = ("h_res_post_norm_and_clip", "g_post_norm_and_clip")
CONVOLUTIONAL = tuple(family for family in FAMILIES if family not in CLIP)


def arguments(family: str = "t", **more: Any) -> tuple[str, dict[str, Any]]:
    """Name and keywords of a family's small network, for ``internimage.create_model`` or timm's."""
    name, options = FAMILIES[family]
    return name, {**TINY, **options, **more}


def make(family: str = "t", **more: Any) -> Any:
    """A family's small network in evaluation mode, with offsets, so that it samples between pixels."""
    name, options = arguments(family, **more)
    torch.manual_seed(0)
    return with_offsets(internimage.create_model(name, **options)).eval()


def with_offsets(model: nn.Module, std: float = 0.1) -> nn.Module:
    """Fresh weights predict no offset and an even mask, which would hide most of what can go wrong.

    A deep network of DCNv4, whose weights no softmax bounds, multiplies every rounding unless ``std`` is small: thirty
    blocks at 0.1 leave no digit of float32, at 0.01 all but the last.
    """
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if any(f".dcn.{part}." in name for part in ("offset", "mask", "offset_mask")):
            nn.init.normal_(parameter, std=std, generator=generator)
    return model


def images(number: int = 2, size: int | tuple[int, int] = 64, channels: int = 3) -> Tensor:
    """Noise as images."""
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(number, channels, height, width, generator=torch.Generator().manual_seed(1))
