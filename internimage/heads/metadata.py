"""Date and place in, class logits out: the branch that the iNaturalist model has beside its image head.

Source: ``intern_image_meta_former`` of the released classification code; the vectors come from
:mod:`internimage.data.metadata`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.norm import layer_norm
from .classification import make_classifier

TEMPORAL, SPATIAL = 4, 3  # numbers of a date and of a place
WIDTH = 64


def refuse_metadata(temporal: Tensor | None, spatial: Tensor | None) -> None:
    """ValueError if there is any: for models without the branch."""
    if temporal is not None or spatial is not None:
        raise ValueError(
            "temporal and spatial are for models with a branch for date and place, such as internimage_h_meta; this "
            "one has none"
        )


class MetadataEncoder(nn.Module):
    """(N, in_features) to (N, width): linear, ReLU, norm, and a residual block of two such.

    Its norms have an eps of 1e-5, unlike all others of the network.
    """

    def __init__(self, in_features: int, width: int = WIDTH) -> None:
        super().__init__()
        self.fc0, self.norm0 = nn.Linear(in_features, width), nn.LayerNorm(width)
        self.fc1, self.norm1 = nn.Linear(width, width), nn.LayerNorm(width)
        self.fc2, self.norm2 = nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, vector: Tensor) -> Tensor:
        x = self.norm0(F.relu(self.fc0(vector)))
        branch = self.norm1(F.relu(self.fc1(x)))
        return x + self.norm2(F.relu(self.fc2(branch)))


class MetadataHead(nn.Module):
    """What date and place add to the logits of the image.

    Args:
        num_classes: those of the image head, at least 1.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.temporal, self.spatial = MetadataEncoder(TEMPORAL), MetadataEncoder(SPATIAL)
        self.norm = layer_norm(2 * WIDTH)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.reset(num_classes)

    def reset(self, num_classes: int) -> None:
        """A fresh last layer; the encoders stay."""
        self.fc = make_classifier(2 * WIDTH, num_classes)

    def forward(self, temporal: Tensor | None, spatial: Tensor | None, images: int) -> Tensor:
        """(N, 4) and (N, 3) to (N, num_classes); None is unknown, which is zeros, for ``images`` pictures.

        Raises:
            ValueError: a vector has another shape.
        """
        vectors = (self._vector("temporal", temporal, images), self._vector("spatial", spatial, images))
        both = torch.cat((self.temporal(vectors[0]), self.spatial(vectors[1])), -1)
        return self.fc(self.norm(both))

    def _vector(self, name: str, vector: Tensor | None, images: int) -> Tensor:
        weight: Tensor = getattr(self, name).fc0.weight
        wanted = (images, weight.shape[1])
        if vector is None:
            return weight.new_zeros(wanted)
        if tuple(vector.shape) != wanted:
            raise ValueError(
                f"{name} has shape {tuple(vector.shape)}, expected {wanted}: one row a picture, "
                "of zeros where it is unknown"
            )
        return vector.to(weight)
