"""Deformable operators: they know tensors, and know nothing of models."""

from .backends import available_backends
from .dcnv3 import dcnv3
from .dcnv4 import dcnv4
from .dispatch import BackendError

__all__ = ["BackendError", "available_backends", "dcnv3", "dcnv4"]
