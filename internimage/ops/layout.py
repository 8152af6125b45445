"""How the kernels want tensors to lie in memory."""

from torch import Tensor


def by_group(tensor: Tensor, groups: int) -> Tensor:
    """(N, H, W, G*K) or (N, H, W, G, K) as (N*H*W, G, K), the last axis packed; a view where it can be."""
    rows = tensor.flatten(0, 2)
    rows = rows if rows.dim() == 3 else rows.unflatten(1, (groups, -1))
    return rows if rows.stride(2) == 1 or rows.shape[2] == 1 else rows.contiguous()


def distances(tensor: Tensor, groups: int) -> tuple[Tensor, int, int]:
    """The same without views where the tensor is packed: what to read, and how far rows and groups lie apart."""
    if tensor.is_contiguous():
        numbers = tensor.shape[-1] if tensor.dim() == 5 else tensor.shape[-1] // groups
        return tensor, groups * numbers, numbers
    rows = by_group(tensor, groups)
    return rows, rows.stride(0), rows.stride(1)
