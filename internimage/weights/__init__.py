"""Weights: the catalog of released files, and loading, converting and saving them."""

from .architecture import architecture_of, config_from_hf
from .catalog import DEFAULTS, Released, released
from .checkpoint import Checkpoint, open_checkpoint
from .convert import convert
from .hub import cache_folder, download
from .imagenet_22k import IMAGENET_1K_IN_22K
from .load import load_weights
from .own import ModelCard, read_card, read_model, save_model
from .released import to_released
from .report import LoadReport, WeightsError

__all__ = [
    "DEFAULTS",
    "IMAGENET_1K_IN_22K",
    "Checkpoint",
    "LoadReport",
    "ModelCard",
    "Released",
    "WeightsError",
    "architecture_of",
    "cache_folder",
    "config_from_hf",
    "convert",
    "download",
    "load_weights",
    "open_checkpoint",
    "read_card",
    "read_model",
    "released",
    "save_model",
    "to_released",
]
