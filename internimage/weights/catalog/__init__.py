"""Every released file: where it lies, what it was trained on, and what its authors report.

Scores are theirs, from the released model tables, in percent unless the name says otherwise. Sizes in bytes are not
published; None until somebody has seen the file. ``Released.about_mib`` estimates from the parameters.
"""

from __future__ import annotations

import difflib
from functools import cache
from pathlib import PurePosixPath

from .classification import classification, hugging_face
from .detection import detection
from .driving import driving
from .entry import Released
from .flash import flash
from .segmentation import segmentation

DEFAULTS = {
    "internimage_t": "internimage_t_1k_224",
    "internimage_s": "internimage_s_1k_224",
    "internimage_b": "internimage_b_1k_224",
    "internimage_l": "internimage_l_22kto1k_384",
    "internimage_xl": "internimage_xl_22kto1k_384",
    "internimage_h": "internimage_h_22kto1k_640",
    "internimage_g": "internimage_g_22kto1k_512",
    "internimage_h_meta": "internimage_h_22ktoinat18_384",
    "flash_internimage_t": "flash_intern_image_t_1k_224",
    "flash_internimage_s": "flash_intern_image_s_1k_224",
    "flash_internimage_b": "flash_intern_image_b_1k_224",
    "flash_internimage_l": "flash_internimage_l_22kto1k_384",
}
"""What ``create_model(name, pretrained=True)`` loads."""


@cache
def released() -> dict[str, Released]:
    """The catalog, by name."""
    entries = [*classification(), *hugging_face(), *detection(), *segmentation(), *flash(), *driving()]
    return {entry.name: entry for entry in entries}


def find(name: str) -> Released | None:
    """The entry of a name, with or without its suffix; None when there is none."""
    return released().get(name) or released().get(name.removesuffix(".pth"))


def get(name: str) -> Released:
    """The entry of a name.

    Raises:
        ValueError: there is none; the message names the nearest.
    """
    entry = find(name)
    if entry is None:
        raise ValueError(f"there is no released checkpoint {name!r}; {hint(name)}")
    return entry


def hint(name: str) -> str:
    """What to say after an unknown name: the nearest ones, or where the list is."""
    near = difflib.get_close_matches(PurePosixPath(name).name.removesuffix(".pth"), released(), n=3, cutoff=0.6)
    listing = "`internimage models` lists them all"
    return f"did you mean {' or '.join(map(repr, near))}? {listing}" if near else listing
