"""Feature pyramid in, answer out."""

from .classification import ClipProjectorHead, ConvHead
from .metadata import MetadataHead

__all__ = ["ClipProjectorHead", "ConvHead", "MetadataHead"]
