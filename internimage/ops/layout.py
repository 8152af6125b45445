"""How the kernels want tensors to lie in memory."""

from torch import Tensor


def by_group(tensor: Tensor, groups: int) -> Tensor:
    """(N, H, W, G*K) or (N, H, W, G, K) as (N*H*W, G, K), the last axis packed; a view where it can be."""
    rows = tensor.flatten(0, 2)
    rows = rows if rows.dim() == 3 else rows.unflatten(1, (groups, -1))
    return rows if rows.stride(2) == 1 or rows.shape[2] == 1 else rows.contiguous()


def distances(tensor: Tensor, groups: int) -> tuple[Tensor, int, int]:
    """The same without views where strides allow it: what to read, and how far its rows and its groups lie apart."""
    shape, stride = tensor.shape, tensor.stride()
    if stride[-1] == 1 and stride[0] == shape[1] * stride[1] and stride[1] == shape[2] * stride[2]:
        return tensor, stride[2], stride[3] if len(shape) == 5 else shape[3] // groups
    rows = by_group(tensor, groups)
    return rows, rows.stride(0), rows.stride(1)
