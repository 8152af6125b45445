"""Convolutions of channels-last maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import fused


class ChannelsLastConv2d(nn.Conv2d):
    """A convolution from (N, H, W, C_in) to (N, H_out, W_out, C_out): the permutes change strides, not memory."""

    def forward(self, input: Tensor) -> Tensor:
        usual = self.groups == 1 and self.padding_mode == "zeros" and isinstance(self.padding, tuple)
        if usual and fused.takes(input, self) and self._has_few_patches(input):
            return self._multiply_patches(input)
        return super().forward(input.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def _has_few_patches(self, input: Tensor) -> bool:
        """So few that a convolution would spend its time on rearranging the weights, which it does at every call."""
        patches = input.shape[0] * input.shape[1] * input.shape[2] // (self.stride[0] * self.stride[1])
        return 4 * patches < self.out_channels

    def _multiply_patches(self, input: Tensor) -> Tensor:
        padding = (int(self.padding[0]), int(self.padding[1]))
        reach = self.dilation[0] * (self.kernel_size[0] - 1) + 1
        h_out = (input.shape[1] + 2 * padding[0] - reach) // self.stride[0] + 1
        patches = F.unfold(input.permute(0, 3, 1, 2), self.kernel_size, self.dilation, padding, self.stride)
        output = fused.linear(patches.transpose(1, 2), self.weight.flatten(1), self.bias)
        return output.unflatten(1, (h_out, -1))


def check_tensor(name: str, x: Tensor, like: nn.Module) -> None:
    """ValueError unless ``x`` is a tensor in the numbers of the weight of ``like``; autocast converts any float."""
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} is a {type(x).__name__}, expected a torch.Tensor")
    weight = like._parameters.get("weight")  # a quantised or wrapped module has none, and takes what it takes
    if weight is None or x.dtype == weight.dtype:
        return
    if not (x.is_floating_point() and torch.is_autocast_enabled(x.device.type)):
        raise ValueError(
            f"{name} is {x.dtype}, expected {weight.dtype} like the weights; convert it or the module with .to()"
        )
