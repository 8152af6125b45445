"""InternImage: the DCNv3 operator, backbones and classifiers, on any device without a compiler."""

from ._version import __version__
from .models import create_model, list_models

__all__ = ["__version__", "create_model", "list_models"]
