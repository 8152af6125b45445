"""A call of the deformable kernels: the problem they are handed, and the tensors it points to."""

from __future__ import annotations

import torch
from torch import Tensor

from . import STORAGE, DeformableProblem, library

Biases = tuple[Tensor | None, Tensor | None, Tensor | None]


class DeformableCall:
    """One call; it holds the tensors for as long as the kernels read them.

    Args:
        input: (N, ..., C).
        offset, mask: (rows, groups, numbers), the numbers packed, rows and groups at any distance.
        softmax: the mask holds logits.
        fields: the rest of the problem.
    """

    def __init__(self, input: Tensor, offset: Tensor, mask: Tensor, softmax: bool, **fields) -> None:
        self.input, self.offset, self.mask = input.contiguous(), offset, mask
        groups = mask.shape[1]
        self.problem = DeformableProblem(
            input=self.input.data_ptr(),
            storage=STORAGE[input.dtype],
            softmax=softmax,
            n=input.shape[0],
            groups=groups,
            depth=input.shape[-1] // groups,
            **fields,
        )
        self._place("offset", offset)
        self._place("mask", mask)

    def forward(self, output: Tensor, biases: Biases = (None, None, None)) -> Tensor:
        """Fill ``output``, packed; ``biases`` of input, offset and mask, of one dtype, are added on the way.

        That of the input goes with softmax only.
        """
        for name, bias in zip(("input_bias", "offset_bias", "mask_bias"), biases, strict=True):
            setattr(self.problem, name, None if bias is None else bias.data_ptr())
            if bias is not None:
                self.problem.bias_storage = STORAGE[bias.dtype]
        self.problem.output = output.data_ptr()
        library().internimage_deformable_forward(self.problem)
        return output

    def backward(self, grad_output: Tensor, grad_offset: Tensor, grad_mask: Tensor) -> Tensor:
        """Fill the gradients of offset and mask, shaped as these are; returns that of the input."""
        grad_output = grad_output.contiguous()
        sum_dtype = torch.float64 if self.input.dtype == torch.float64 else torch.float32
        grad_input = torch.zeros(self.input.shape, dtype=sum_dtype)
        self.problem.grad_output, self.problem.grad_input = grad_output.data_ptr(), grad_input.data_ptr()
        self._place("grad_offset", grad_offset)
        self._place("grad_mask", grad_mask)
        library().internimage_deformable_backward(self.problem)
        return grad_input.to(self.input.dtype)

    def _place(self, name: str, tensor: Tensor) -> None:
        setattr(self.problem, name, tensor.data_ptr())
        setattr(self.problem, f"{name}_row", tensor.stride(0))
        setattr(self.problem, f"{name}_group", tensor.stride(1))
