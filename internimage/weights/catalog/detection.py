"""The released detectors: COCO, LVIS, OpenImages, VOC; the resolution is the test scale, short and longest side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .entry import PRETRAINED, Released


def detection() -> Iterator[Released]:
    def entry(stem: str, size: str, head: str, params: int, box: float | None, mask: float | None = None, **rest):
        scores = {key: value for key, value in (("box_ap", box), ("mask_ap", mask)) if value is not None}
        defaults = {
            "model": f"internimage_{size}",
            "dataset": "COCO",
            "num_classes": 80,
            "resolution": (800, 1333),
            "pretraining": PRETRAINED.get(size),
            "scores": scores,
            "config": stem,
        }
        fields = {"task": "detection", "head": head, "params": params * 10**6, **defaults, **rest}
        return Released(name=stem, file=f"{stem}.pth", **fields)

    for size, schedule, box, mask, params in (
        ("t", "1x", 47.2, 42.5, 49),
        ("t", "3x", 49.1, 43.7, 49),
        ("s", "1x", 47.8, 43.3, 69),
        ("s", "3x", 49.7, 44.5, 69),
        ("b", "1x", 48.8, 44.0, 115),
        ("b", "3x", 50.3, 44.8, 115),
    ):
        yield entry(f"mask_rcnn_internimage_{size}_fpn_{schedule}_coco", size, "Mask R-CNN", params, box, mask)
    for size, schedule, box, mask, params in (
        ("l", "1x", 54.9, 47.7, 277),
        ("l", "3x", 56.1, 48.5, 277),
        ("xl", "1x", 55.3, 48.1, 387),
        ("xl", "3x", 56.2, 48.8, 387),
    ):
        yield entry(f"cascade_internimage_{size}_fpn_{schedule}_coco", size, "Cascade Mask R-CNN", params, box, mask)
    dino_t = "dino_4scale_internimage_t_1x_coco"
    yield entry(dino_t, "t", "DINO", 49, 53.9, config=f"{dino_t}_layer_wise_lr")
    yield entry("dino_4scale_internimage_l_1x_coco_layer_wise_lr", "l", "DINO", 241, 57.5)
    yield entry("dino_4scale_internimage_l_1x_coco_0.1x_backbone_lr", "l", "DINO", 241, 57.6)
    wide: dict[str, Any] = {"resolution": (1000, 2000), "pretraining": "Objects365"}
    for size, params, box in (("h", 1100, 63.4), ("g", 3100, 64.2)):
        stem = f"dino_4scale_internimage_{size}_objects365_coco"
        yield entry(stem, size, "DINO", params, box, config=f"{stem}_ss", **wide)
    stem = "dino_4scale_cbinternimage_h_objects365"
    composite: dict[str, Any] = {"size": "h", "head": "DINO", "params": 2180, **wide, "model": "cb_internimage_h"}
    first = {**composite, "pretraining": f"{stem}_80classes"}
    scores = {"box_ap": 64.5, "box_ap_tta": 65.0, "box_ap_test_dev": 65.4}
    yield entry(f"{stem}_coco", box=None, config=f"{stem}_coco_ss", scores=scores, **first)
    start = {**composite, "dataset": "Objects365", "pretraining": "not stated", "config": None}
    yield entry(f"{stem}_80classes", box=None, note="a start for COCO, LVIS and OpenImages", **start)
    yield entry(f"{stem}_20classes", box=None, num_classes=20, note="a start for VOC", **start)
    scores = {"box_ap_minival": 65.8, "box_ap_val": 62.3, "box_ap_val_multi_scale": 63.2}
    yield entry(
        f"{stem}_lvis",
        box=None,
        scores=scores,
        dataset="LVIS v1",
        num_classes=1203,
        **{**first, "config": "dino_4scale_cbinternimage_h_objects365_lvis_minival_ss"},
    )
    yield entry(
        f"{stem}_openimages",
        box=None,
        scores={"map": 74.1},
        dataset="OpenImages",
        num_classes=601,
        **{**first, "config": "dino_4scale_cbinternimage_h_objects365_openimages_ss"},
    )
    yield entry(
        f"{stem}_voc0712",
        box=None,
        scores={"ap_voc07": 94.0, "ap_voc12": 97.2},
        dataset="VOC 2007+2012",
        num_classes=20,
        **{**first, "pretraining": f"{stem}_20classes", "config": "dino_4scale_cbinternimage_h_objects365_voc07"},
    )
