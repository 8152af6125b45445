"""Names of networks in results and tables; kept apart, so that whoever only reads results imports no network."""

from __future__ import annotations

ON_GRID_SAMPLE, FREE = "on grid_sample", "free operator"
VARIANTS = (ON_GRID_SAMPLE, FREE)
COMPILED, GRAPH = "compiled", "graph"
PEERS = ("convnext_tiny", "swin_tiny_patch4_window7_224", "resnet50")
BASELINE = {"cpu": "convnext_tiny", "cuda": "swin_tiny_patch4_window7_224"}
"""What ratios are over, on each kind of device."""

RELEASED_IMAGES_PER_S = {
    "internimage_t": 156,
    "internimage_s": 129,
    "internimage_b": 116,
    "internimage_l": 56,
    "internimage_xl": 47,
}
"""Batch 1 with TensorRT, as the README of OpenGVLab/InternImage says; it does not name the card."""


def split_label(label: str) -> tuple[str, str | None]:
    """The model of a label, and the variant, "compiled" or "graph" behind it."""
    name, _, variant = label.partition(" ")
    return name, variant or None
