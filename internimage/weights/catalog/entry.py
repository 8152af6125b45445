"""One released file."""

from __future__ import annotations

from dataclasses import dataclass, field

REPO = "OpenGVLab/InternImage"


@dataclass(frozen=True, kw_only=True)
class Released:
    """One released file.

    Attributes:
        name: what the commands call it: the file's stem, or the repository of a Hugging Face model.
        task: "classification", "detection", "segmentation" or "driving".
        model: the backbone, as :func:`internimage.list_models` or its authors name it.
        head: what stands on the backbone.
        dataset: what it was trained on last; the scores are measured on its validation part.
        num_classes: outputs of the head. Cityscapes heads have 150, of which 19 were trained.
        resolution: (height, width) it is used at; for detection the test scale (short side, longest side).
        pretraining: the released file, or the data, it started from; None is from scratch.
        scores: published, in percent.
        params: of the whole network, as published for detection and segmentation, exact for classification.
        repo, file: on the Hugging Face hub; ``file`` None is a model in Hugging Face format, a whole repository.
        url: for what is not on the hub. ``by_hand``: only a browser can fetch it.
        config: the released configuration it belongs to.
    """

    name: str
    task: str
    model: str
    head: str
    dataset: str
    num_classes: int
    resolution: tuple[int, int] | None = None
    pretraining: str | None = None
    scores: dict[str, float] = field(default_factory=dict)
    params: int | None = None
    repo: str | None = REPO
    file: str | None = None
    url: str | None = None
    by_hand: bool = False
    config: str | None = None
    licence: str = "MIT"
    size_bytes: int | None = None
    note: str = ""

    @property
    def loads_into(self) -> str:
        """What of this package takes it: "classifier", "backbone" (the heads are left out), or "" for nothing yet."""
        if not self.model.startswith(("internimage_", "flash_internimage_")):
            return ""
        return "classifier" if self.task == "classification" else "backbone"

    @property
    def about_mib(self) -> int | None:
        """Size in MiB, from the parameters in float32 where the bytes are not known."""
        size = self.size_bytes or (self.params * 4 if self.params else None)
        return None if size is None else round(size / 2**20)


PRETRAINED = {
    "t": "internimage_t_1k_224",
    "s": "internimage_s_1k_224",
    "b": "internimage_b_1k_224",
    "l": "internimage_l_22k_192to384",
    "xl": "internimage_xl_22k_192to384",
    "h": "internimage_h_jointto22k_384",
    "g": "internimage_g_pretrainto22k_384",
}
"""The classification files that detectors, segmenters and driving networks started from."""
