"""The released driving networks; their code carries licences of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .entry import PRETRAINED, Released

_RELEASES = "https://github.com/OpenGVLab/InternImage/releases/download"
_DRIVE = "https://drive.google.com/file/d/{}/view"


def driving() -> Iterator[Released]:
    common: dict[str, Any] = {"task": "driving", "model": "internimage_s", "repo": None}
    yield Released(
        name="vectormapnet_internimage",
        head="VectorMapNet",
        dataset="Argoverse 2",
        num_classes=3,
        resolution=(256, 480),
        pretraining=PRETRAINED["s"],
        scores={"map": 49.35},
        url=f"{_RELEASES}/track_model/vectormapnet_internimage.pth",
        file="vectormapnet_internimage.pth",
        config="vectormapnet_intern",
        licence="GPL-3.0",
        **common,
    )
    yield Released(
        name="bevformer_intern-s_occ",
        head="occupancy",
        dataset="Occ3D-nuScenes",
        num_classes=18,
        licence="Apache-2.0",
        pretraining="mask_rcnn_internimage_s_fpn_3x_coco",
        scores={"miou": 25.11},
        url=_DRIVE.format("1LV9K8hrskKf51xY1wbqTKzK7WZmVXEV_"),
        by_hand=True,
        config="bevformer_intern-s_occ",
        **common,
    )
    yield Released(
        name="openlanev2_internimage_s",
        head="lane topology",
        dataset="OpenLane-V2",
        num_classes=13,
        pretraining=PRETRAINED["s"],
        scores={"ols": 32.5, "f_score": 22.4},
        by_hand=True,
        licence="Apache-2.0",
        note="on Google Drive; the link is in the released README",
        **common,
    )
