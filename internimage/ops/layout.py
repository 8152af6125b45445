"""How the kernels want tensors to lie in memory."""

from torch import Tensor


def as_rows(tensor: Tensor) -> Tensor:
    """(N, H, W, C) as (N*H*W, C) with packed channels; a slice of the channels of a packed tensor is not copied."""
    rows = tensor.flatten(0, 2)
    return rows if rows.stride(1) == 1 or rows.shape[1] == 1 else rows.contiguous()
