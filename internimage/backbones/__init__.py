"""Image in, feature pyramid out."""

from .internimage import SIZES, InternImage, InternImageConfig

__all__ = ["SIZES", "InternImage", "InternImageConfig"]
