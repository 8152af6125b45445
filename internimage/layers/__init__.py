"""Modules that two or more models share."""

from .deform_conv import DCNv3

__all__ = ["DCNv3"]
