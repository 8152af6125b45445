"""Multi-scale deformable attention as a layer: the projections around the operator and their initial values.

Source: Zhu et al. 2021, "Deformable DETR", arXiv 2010.04159.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ops.bilinear import working_dtype
from ..ops.checks import require_tensors
from ..ops.dispatch import named
from ..ops.ms_deform_attn import ms_deform_attn
from ..ops.ms_deform_attn.levels import Sizes, as_sizes
from ..ops.ms_deform_attn.op import BACKENDS
from .convolution import check_tensor


class MSDeformAttn(nn.Module):
    """Each query looks at a few points around its reference, on every level.

    Args:
        channels: of queries, values and output; a multiple of ``heads``.
        levels: L, maps that are looked at.
        heads: M, independent looks.
        points: P, samples of each head on each level.
        softmax: whether the weights of a head, over all levels and points, are made to add up to one.
        backend: passed on to :func:`internimage.ops.ms_deform_attn`.

    Raises:
        ValueError: the arguments do not fit each other.
        BackendError: there is no such backend.
    """

    def __init__(
        self,
        channels: int = 256,
        levels: int = 4,
        heads: int = 8,
        points: int = 4,
        *,
        softmax: bool = True,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("channels", channels), ("levels", levels), ("heads", heads), ("points", points)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}, expected an int >= 1")
        if backend is not None:
            named(BACKENDS, backend)
        if channels % heads:
            raise ValueError(f"channels={channels} is not a multiple of heads={heads}")
        self.channels, self.levels, self.heads, self.points = channels, levels, heads, points
        self.softmax, self.backend = softmax, backend
        self.sampling_offsets = nn.Linear(channels, heads * levels * points * 2)
        self.attention_weights = nn.Linear(channels, heads * levels * points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Heads look into directions all around, further with each point; all points count alike."""
        for linear in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack((angles.cos(), angles.sin()), -1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1).view(1, 1, -1, 1)
        with torch.no_grad():
            bias = (directions.view(-1, 1, 1, 2) * steps).expand(-1, self.levels, -1, -1)
            self.sampling_offsets.bias.copy_(bias.reshape(-1))

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        value: Tensor,
        spatial_shapes: Tensor | Sequence[Sequence[int]],
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """The attention, without a residual.

        Args:
            query: (N, Q, C), what offsets and weights are predicted from.
            reference_points: (N, Q, L, 2), x and y, 0 to 1 over the level; or (N, Q, L, 4), boxes: middle and size.
            value: (N, S, C), pixels of all levels, one level behind the other.
            spatial_shapes: (height, width) of each level; pairs of ints, or a tensor (L, 2).
            padding_mask: (N, S), True where a pixel is padding, whose value is zero then.

        Returns:
            (N, Q, C).

        Raises:
            ValueError: a shape or dtype does not fit; the message names the argument and both values.
        """
        self._check(query, reference_points, value, padding_mask)
        sizes = as_sizes(spatial_shapes)
        if len(sizes) != self.levels:
            raise ValueError(f"spatial_shapes has {len(sizes)} levels, expected {self.levels}")
        values = self.value_proj(value)
        if padding_mask is not None:
            values = values.masked_fill(padding_mask.unsqueeze(-1), 0)
        heads = (*query.shape[:2], self.heads, self.levels, self.points)
        # float32 for the half types: in bfloat16 the position on a level 100 pixels wide would be off by a fifth of one
        dtype = working_dtype(values.dtype)
        offsets = self.sampling_offsets(query).to(dtype).view(*heads, 2)
        locations = self._locations(offsets, reference_points.to(dtype)[:, :, None, :, None], sizes)
        weights = self.attention_weights(query).view(heads)
        values = values.unflatten(-1, (self.heads, -1))
        output = ms_deform_attn(values, sizes, locations, weights, softmax=self.softmax, backend=self.backend)
        return self.output_proj(output)

    def _locations(self, offsets: Tensor, reference: Tensor, sizes: Sizes) -> Tensor:
        """Offsets (N, Q, M, L, P, 2) around references (N, Q, 1, L, 1, 2 or 4): in pixels, or in shares of the box."""
        if reference.shape[-1] == 4:
            return reference[..., :2] + offsets / self.points * reference[..., 2:] * 0.5
        # filled one by one: a list would have to be copied to the card, and would fix the sizes of an exported graph
        sides = [offsets.new_full((), max(side, 1)) for height, width in sizes for side in (width, height)]
        return reference + offsets / torch.stack(sides).view(-1, 1, 2)

    def _check(self, query: Tensor, reference: Tensor, value: Tensor, padding_mask: Tensor | None) -> None:
        for name, tensor in (("query", query), ("value", value)):
            check_tensor(name, tensor, self.value_proj)
            if tensor.dim() != 3 or tensor.shape[-1] != self.channels:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected (N, rows, {self.channels})")
        require_tensors(reference_points=reference)
        expected = (*query.shape[:2], self.levels)
        if reference.dim() != 4 or tuple(reference.shape[:3]) != expected or reference.shape[-1] not in (2, 4):
            wanted = f"({', '.join(map(str, expected))}, 2) or (..., 4): for each level a point, or a box"
            raise ValueError(f"reference_points has shape {tuple(reference.shape)}, expected {wanted}")
        if query.shape[0] != value.shape[0]:
            raise ValueError(f"query has {query.shape[0]} images, value {value.shape[0]}")
        if padding_mask is not None and (padding_mask.shape != value.shape[:2] or padding_mask.dtype != torch.bool):
            raise ValueError(
                f"padding_mask is {padding_mask.dtype} of {tuple(padding_mask.shape)}, expected bool of "
                f"{tuple(value.shape[:2])}"
            )

    def extra_repr(self) -> str:
        return f"channels={self.channels}, levels={self.levels}, heads={self.heads}, points={self.points}"
