"""Forward on the CPU without views of the packed tensor; the backward pass is DCNv3's, on views."""

from __future__ import annotations

from torch import Tensor

from ..dcnv3.cpu import call_of
from ..geometry import Geometry

Biases = tuple[Tensor | None, Tensor | None]


def forward(
    input: Tensor, offset_mask: Tensor, geometry: Geometry, softmax: bool = False, biases: Biases = (None, None)
) -> Tensor:
    """Maps as in :func:`internimage.ops.dcnv4`.

    ``biases`` of input (C) and of the packed tensor (K), contiguous and of one dtype, are added on the way.
    """
    taps, offset_mask = geometry.taps, offset_mask.contiguous()
    call = call_of(input, offset_mask, offset_mask, geometry, softmax)
    problem = call.problem
    problem.mask = offset_mask.data_ptr() + 2 * taps * offset_mask.element_size()
    problem.offset_group = problem.mask_group = problem.offset_bias_group = problem.mask_bias_group = 3 * taps
    input_bias, packed_bias = biases
    output = input.new_empty(*offset_mask.shape[:3], input.shape[-1])
    if packed_bias is None:
        return call.forward(output, (input_bias, None, None))
    return call.forward(output, (input_bias, packed_bias, packed_bias[2 * taps :]))
