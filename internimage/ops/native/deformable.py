"""A call of the deformable kernels: the problem they are handed, and the tensors it points to."""

from __future__ import annotations

import torch
from torch import Tensor

from ..layout import lanes_of
from . import STORAGE, DeformableProblem, library

Biases = tuple[Tensor | None, Tensor | None, Tensor | None]


class DeformableCall:
    """One call; it holds the tensors for as long as the kernels read them.

    Args:
        problem: where samples are taken; the rest is filled in here.
        input: (N, ..., C).
        offset, mask: (N, H_out, W_out, groups*numbers) or (N, H_out, W_out, groups, numbers), any strides.
        softmax: the mask holds logits.

    Offsets are of the dtype of the input, or float32 beside half types.
    """

    def __init__(
        self, problem: DeformableProblem, input: Tensor, offset: Tensor, mask: Tensor, groups: int, softmax: bool
    ) -> None:
        self.problem, self.groups, self.input = problem, groups, input.contiguous()
        problem.input, problem.storage, problem.softmax = self.input.data_ptr(), STORAGE[input.dtype], softmax
        problem.offset_storage = STORAGE[offset.dtype]
        problem.n, problem.groups, problem.depth = input.shape[0], groups, input.shape[-1] // groups
        self.offset, problem.offset_row, problem.offset_group = lanes_of(offset, groups)
        self.mask, problem.mask_row, problem.mask_group = lanes_of(mask, groups)
        problem.offset, problem.mask = self.offset.data_ptr(), self.mask.data_ptr()

    def forward(self, output: Tensor, biases: Biases | None = None) -> Tensor:
        """Fill ``output``; ``biases`` of input, offset and mask, all packed and of one dtype, are added on the way."""
        problem = self.problem
        problem.output = output.data_ptr()
        if biases is not None:
            for name, bias in zip(("input_bias", "offset_bias", "mask_bias"), biases, strict=True):
                if bias is not None:
                    setattr(problem, name, bias.data_ptr())
                    problem.bias_storage = STORAGE[bias.dtype]
        library().internimage_deformable_forward(problem)
        return output

    def backward(self, grad_output: Tensor, grad_offset: Tensor, grad_mask: Tensor) -> Tensor:
        """Fill the gradients of offset and mask, shaped as these are; returns that of the input.

        Their numbers of a group are packed: they are filled in place.
        """
        problem, grad_output = self.problem, grad_output.contiguous()
        sum_dtype = torch.float64 if self.input.dtype == torch.float64 else torch.float32
        grad_input = torch.zeros(self.input.shape, dtype=sum_dtype)
        problem.grad_output, problem.grad_input = grad_output.data_ptr(), grad_input.data_ptr()
        offset, problem.grad_offset_row, problem.grad_offset_group = lanes_of(grad_offset, self.groups)
        mask, problem.grad_mask_row, problem.grad_mask_group = lanes_of(grad_mask, self.groups)
        problem.grad_offset, problem.grad_mask = offset.data_ptr(), mask.data_ptr()
        library().internimage_deformable_backward(problem)
        return grad_input.to(self.input.dtype)
