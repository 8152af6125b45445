"""Feature pyramid in, answer out."""

from .classification import ClipProjectorHead, ConvHead

__all__ = ["ClipProjectorHead", "ConvHead"]
