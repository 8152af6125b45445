"""How the kernels want tensors to lie in memory."""

from torch import Tensor


def by_group(tensor: Tensor, groups: int) -> Tensor:
    """(N, H, W, G*K) or (N, H, W, G, K) as (N*H*W, G, K), the last axis packed; a view where it can be."""
    rows = tensor.flatten(0, 2)
    rows = rows if rows.dim() == 3 else rows.unflatten(1, (groups, -1))
    return rows if rows.stride(2) == 1 or rows.shape[2] == 1 else rows.contiguous()
