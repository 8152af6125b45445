"""Modules that two or more models share."""

from .conv2d import DCNv3Conv2d, DCNv4Conv2d
from .dcnv4 import DCNv4
from .deform_conv import DCNv3
from .ms_deform_attn import MSDeformAttn

__all__ = ["DCNv3", "DCNv3Conv2d", "DCNv4", "DCNv4Conv2d", "MSDeformAttn"]
