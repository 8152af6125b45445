"""Modules that two or more models share."""

from .dcnv4 import DCNv4
from .deform_conv import DCNv3
from .ms_deform_attn import MSDeformAttn

__all__ = ["DCNv3", "DCNv4", "MSDeformAttn"]
