"""Deformable operators: they know tensors, and know nothing of models."""

from .backends import available_backends
from .dcnv3 import dcnv3
from .dcnv4 import dcnv4, pack_offset_mask
from .dispatch import BackendError
from .ms_deform_attn import ms_deform_attn, ms_deform_attn_packed
from .tuning import autotune

__all__ = [
    "BackendError",
    "autotune",
    "available_backends",
    "dcnv3",
    "dcnv4",
    "ms_deform_attn",
    "ms_deform_attn_packed",
    "pack_offset_mask",
]
