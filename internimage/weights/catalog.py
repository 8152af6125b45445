"""Every released file: where it lies, what it was trained on, and what its authors report.

Scores are theirs, from the released model tables, in percent unless the name says otherwise. Sizes in bytes are not
published; None until somebody has seen the file. ``Released.about_mib`` estimates from the parameters.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import PurePosixPath

REPO = "OpenGVLab/InternImage"
DCNV4_REPO = "OpenGVLab/DCNv4"
_RELEASES = "https://github.com/OpenGVLab/InternImage/releases/download"
_DRIVE = "https://drive.google.com/file/d/{}/view"


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
    def about_mib(self) -> int | None:
        """Size in MiB, from the parameters in float32 where the bytes are not known."""
        size = self.size_bytes or (self.params * 4 if self.params else None)
        return None if size is None else round(size / 2**20)


DEFAULTS = {
    "internimage_t": "internimage_t_1k_224",
    "internimage_s": "internimage_s_1k_224",
    "internimage_b": "internimage_b_1k_224",
    "internimage_l": "internimage_l_22kto1k_384",
    "internimage_xl": "internimage_xl_22kto1k_384",
    "internimage_h": "internimage_h_22kto1k_640",
    "internimage_g": "internimage_g_22kto1k_512",
}
"""What ``create_model(name, pretrained=True)`` loads."""


@cache
def released() -> dict[str, Released]:
    """The catalog, by name."""
    entries = [*_classification(), *_hugging_face(), *_detection(), *_segmentation(), *_flash(), *_driving()]
    return {entry.name: entry for entry in entries}


def find(name: str) -> Released | None:
    """The entry of a name, with or without its suffix; None when there is none."""
    return released().get(name) or released().get(PurePosixPath(name).name.removesuffix(".pth") if "/" not in name else "")


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


_EXACT_PARAMS = {  # with 1000 and with 21841 classes
    "t": (29_918_424, 45_945_153),
    "s": (50_079_880, 70_108_081),
    "b": (97_461_832, 125_492_977),
    "l": (223_334_810, 263_370_371),
    "xl": (334_819_780, 382_858_285),
    "h": (1_089_636_760, 1_105_663_489),
    "g": (3_076_373_352, 3_092_400_081),
}
_JOINT = "image-text pairs, then ImageNet-22K"


def _classification() -> Iterator[Released]:
    def entry(stem: str, size: str, resolution: int, top1: float | None, pretraining: str | None, classes: int = 1000, **rest):
        return Released(
            name=stem,
            file=f"{stem}.pth",
            task="classification",
            model=f"internimage_{size}",
            head="classifier",
            dataset={1000: "ImageNet-1K", 21841: "ImageNet-22K", 8142: "iNaturalist 2018"}[classes],
            num_classes=classes,
            resolution=(resolution, resolution),
            pretraining=pretraining,
            scores={} if top1 is None else {"top1": top1},
            **{"params": _EXACT_PARAMS[size][classes == 21841], "config": stem, **rest},
        )

    yield entry("internimage_t_1k_224", "t", 224, 83.5, None)
    yield entry("internimage_s_1k_224", "s", 224, 84.2, None)
    yield entry("internimage_b_1k_224", "b", 224, 84.9, None)
    yield entry("internimage_l_22kto1k_384", "l", 384, 87.7, "internimage_l_22k_192to384")
    yield entry("internimage_xl_22kto1k_384", "xl", 384, 88.0, "internimage_xl_22k_192to384")
    yield entry("internimage_h_22kto1k_640", "h", 640, 89.6, "internimage_h_jointto22k_384")
    yield entry("internimage_g_22kto1k_512", "g", 512, 90.1, "internimage_g_pretrainto22k_384")
    yield entry(
        "internimage_h_22ktoinat18_384",
        "h",
        384,
        92.6,
        "internimage_h_jointto22k_384",
        8142,
        params=None,
        head="classifier and metadata branch",
        note="the score is with date and place; without them only the image branch answers",
    )
    yield entry("internimage_l_22k_192to384", "l", 384, None, None, 21841, config=None)
    yield entry("internimage_xl_22k_192to384", "xl", 384, None, None, 21841, config=None)
    yield entry("internimage_h_jointto22k_384", "h", 384, None, _JOINT, 21841, config=None)
    yield entry("internimage_g_pretrainto22k_384", "g", 384, None, _JOINT, 21841, config=None)


def _hugging_face() -> Iterator[Released]:
    for stem, original in (
        ("internimage_t_1k_224", None),
        ("internimage_s_1k_224", None),
        ("internimage_b_1k_224", None),
        ("internimage_l_22kto1k_384", None),
        ("internimage_xl_22kto1k_384", None),
        ("internimage_h_22kto1k_640", None),
        ("internimage_g_22kto1k_512", None),
        ("internimage_l_22k_384", "internimage_l_22k_192to384"),
        ("internimage_xl_22k_384", "internimage_xl_22k_192to384"),
        ("internimage_h_jointto22k_384", None),
        ("internimage_g_jointto22k_384", "internimage_g_pretrainto22k_384"),
    ):
        twin = next(entry for entry in _classification() if entry.name == (original or stem))
        yield Released(
            name=f"OpenGVLab/{stem}",
            repo=f"OpenGVLab/{stem}",
            file=None,
            note=f"{twin.name} in Hugging Face format",
            **{
                key: getattr(twin, key)
                for key in ("task", "model", "head", "dataset", "num_classes", "resolution", "pretraining", "scores", "params")
            },
        )


_1K = {"t": "internimage_t_1k_224", "s": "internimage_s_1k_224", "b": "internimage_b_1k_224"}
_22K = {
    "l": "internimage_l_22k_192to384",
    "xl": "internimage_xl_22k_192to384",
    "h": "internimage_h_jointto22k_384",
    "g": "internimage_g_pretrainto22k_384",
}
_START = {**_1K, **_22K}


def _detection() -> Iterator[Released]:
    def entry(stem: str, size: str, head: str, params: float | None, box: float | None, mask: float | None = None, **rest):
        scores = {key: value for key, value in (("box_ap", box), ("mask_ap", mask)) if value is not None}
        defaults = {
            "model": f"internimage_{size}",
            "dataset": "COCO",
            "num_classes": 80,
            "resolution": (800, 1333),
            "pretraining": _START.get(size),
            "scores": scores,
            "config": stem,
        }
        count = None if params is None else round(params * 1e6)
        return Released(name=stem, file=f"{stem}.pth", task="detection", head=head, params=count, **{**defaults, **rest})

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
    wide = {"resolution": (1000, 2000), "pretraining": "Objects365"}
    for size, params, box in (("h", 1100, 63.4), ("g", 3100, 64.2)):
        stem = f"dino_4scale_internimage_{size}_objects365_coco"
        yield entry(stem, size, "DINO", params, box, config=f"{stem}_ss", **wide)
    stem = "dino_4scale_cbinternimage_h_objects365"
    composite = {"size": "h", "head": "DINO", "params": 2180, **wide, "model": "cb_internimage_h"}
    first = {**composite, "pretraining": f"{stem}_80classes"}
    scores = {"box_ap": 64.5, "box_ap_tta": 65.0, "box_ap_test_dev": 65.4}
    yield entry(f"{stem}_coco", box=None, config=f"{stem}_coco_ss", scores=scores, **first)
    start = {**composite, "dataset": "Objects365", "pretraining": _22K["h"], "config": None}
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


def _segmentation() -> Iterator[Released]:
    def entry(stem: str, size: str, head: str, dataset: str, classes: int, miou: tuple, params: int, resolution, start, **rest):
        scores = dict(zip(("miou", "miou_multi_scale"), miou, strict=False))
        return Released(
            name=stem,
            file=f"{stem}.pth",
            task="segmentation",
            model=f"internimage_{size}",
            head=head,
            dataset=dataset,
            num_classes=classes,
            resolution=resolution,
            pretraining=start,
            scores=scores,
            params=params * 10**6,
            **{"config": stem, **rest},
        )

    for size, crop, miou, params in (
        ("t", 512, (47.9, 48.1), 59),
        ("s", 512, (50.1, 50.9), 80),
        ("b", 512, (50.8, 51.3), 128),
        ("l", 640, (53.9, 54.1), 256),
        ("xl", 640, (55.0, 55.3), 368),
        ("h", 896, (59.9, 60.3), 1120),
    ):
        stem = f"upernet_internimage_{size}_{crop}_160k_ade20k"
        yield entry(stem, size, "UperNet", "ADE20K", 150, miou, params, (crop, crop), _START[size])
    coco_stuff = "mask2former_internimage_h_896_80k_cocostuff164k"
    stem = "mask2former_internimage_h_896_80k_cocostuff2ade20k"
    yield entry(
        stem, "h", "Mask2Former", "ADE20K", 150, (62.6, 62.9), 1310, (896, 896), coco_stuff, config=f"{stem}_ss"
    )
    wide, only_19 = (512, 1024), {"note": "the head has 150 outputs, of which 19 were trained"}
    for size, miou, params in (
        ("t", (82.58, 83.40), 59),
        ("s", (82.74, 83.45), 80),
        ("b", (83.18, 83.97), 128),
        ("l", (83.68, 84.41), 256),
        ("xl", (83.62, 84.28), 368),
    ):
        stem = f"upernet_internimage_{size}_512x1024_160k_cityscapes"
        yield entry(stem, size, "UperNet", "Cityscapes", 150, miou, params, wide, _START[size], **only_19)
    for family, head, size, miou, params in (
        ("upernet", "UperNet", "l", (85.94, 86.22), 256),
        ("upernet", "UperNet", "xl", (86.20, 86.42), 368),
        ("segformer", "SegFormer", "l", (85.16, 85.67), 220),
        ("segformer", "SegFormer", "xl", (85.41, 85.93), 330),
    ):
        start = f"segformer_internimage_{size}_512x1024_80k_mapillary"
        stem = f"{family}_internimage_{size}_512x1024_160k_mapillary2cityscapes"
        yield entry(stem, size, head, "Cityscapes", 150, miou, params, wide, start, **only_19)
    mapillary = "mask2former_internimage_h_896x896_80k_mapillary"
    stem = "mask2former_internimage_h_1024x1024_80k_mapillary2cityscapes"
    yield entry(stem, "h", "Mask2Former", "Cityscapes", 19, (86.37, 86.96), 1094, (1024, 1024), mapillary)
    for family, head, size, params in (
        ("upernet", "UperNet", "l", 256),
        ("upernet", "UperNet", "xl", 368),
        ("segformer", "SegFormer", "l", 220),
        ("segformer", "SegFormer", "xl", 330),
    ):
        stem = f"{family}_internimage_{size}_512x1024_80k_mapillary"
        yield entry(stem, size, head, "Mapillary Vistas", 150, (), params, wide, _START[size], **only_19)
    h = _START["h"]
    yield entry(mapillary, "h", "Mask2Former", "Mapillary Vistas", 19, (), 1094, (896, 896), h)
    yield entry(coco_stuff, "h", "Mask2Former", "COCO-Stuff 164k", 171, (52.6, 52.8), 1310, (896, 896), h)
    stem = "mask2former_internimage_h_512_40k_cocostuff164k_to_10k"
    yield entry(stem, "h", "Mask2Former", "COCO-Stuff 10k", 171, (59.2, 59.6), 1280, (512, 512), coco_stuff)
    stem = "mask2former_internimage_h_480_40k_pascal_context_59"
    yield entry(stem, "h", "Mask2Former", "Pascal Context", 59, (69.7, 70.3), 1070, (480, 480), h)
    stem = "mask2former_internimage_h_480_40k_nyu"
    yield entry(stem, "h", "Mask2Former", "NYU Depth v2", 40, (67.1, 68.1), 1070, (480, 480), h)


_FLASH_START = {size: f"flash_intern_image_{size}_1k_224" for size in "tsb"} | {"l": "flash_intern_image_l_22k_384"}
_FLASH_PARAMS = {"t": 29_815_528, "s": 50_067_496, "b": 97_448_960, "l": 223_297_080}


def _flash() -> Iterator[Released]:
    """FlashInternImage: the same networks on DCNv4."""

    def entry(stem: str, task: str, size: str, head: str, dataset: str, classes: int, resolution, start, scores, **rest):
        return Released(
            name=stem,
            file=f"{stem}.pth",
            repo=DCNV4_REPO,
            task=task,
            model=f"flash_internimage_{size}",
            head=head,
            dataset=dataset,
            num_classes=classes,
            resolution=resolution,
            pretraining=start,
            scores=scores,
            **{"config": stem, **rest},
        )

    def classifier(stem, size, dataset, classes, side, start, scores, **rest):
        return entry(stem, "classification", size, "classifier", dataset, classes, (side, side), start, scores, **rest)

    for size, top1 in (("t", 83.6), ("s", 84.4), ("b", 84.9)):
        stem, params = f"flash_intern_image_{size}_1k_224", _FLASH_PARAMS[size]
        yield classifier(stem, size, "ImageNet-1K", 1000, 224, None, {"top1": top1}, params=params)
    yield classifier(
        "flash_internimage_l_22kto1k_384",
        "l",
        "ImageNet-1K",
        1000,
        384,
        _FLASH_START["l"],
        {"top1": 88.1},
        params=_FLASH_PARAMS["l"],
        config="flash_intern_image_l_22kto1k_384",
    )
    yield classifier("flash_intern_image_l_22k_384", "l", "ImageNet-22K", 21841, 384, None, {}, config=None)
    for family, head, size, schedule, box, mask in (
        ("mask_rcnn", "Mask R-CNN", "t", "1x", 48.0, 43.1),
        ("mask_rcnn", "Mask R-CNN", "t", "3x", 49.5, 44.0),
        ("mask_rcnn", "Mask R-CNN", "s", "1x", 49.2, 44.0),
        ("mask_rcnn", "Mask R-CNN", "s", "3x", 50.5, 44.9),
        ("mask_rcnn", "Mask R-CNN", "b", "1x", 50.1, 44.5),
        ("mask_rcnn", "Mask R-CNN", "b", "3x", 50.6, 45.4),
        ("cascade", "Cascade Mask R-CNN", "l", "1x", 55.6, 48.2),
        ("cascade", "Cascade Mask R-CNN", "l", "3x", 56.7, 48.9),
    ):
        stem = f"{family}_flash_internimage_{size}_fpn_{schedule}_coco"
        scores, config = {"box_ap": box, "mask_ap": mask}, stem.replace("internimage", "intern_image")
        yield entry(stem, "detection", size, head, "COCO", 80, (800, 1333), _FLASH_START[size], scores, config=config)
    for size, box in (("t", 54.7), ("s", 55.3), ("b", 56.0), ("l", 58.8)):
        stem = f"dino_4scale_flash_internimage_{size}_1x_coco"
        yield entry(stem, "detection", size, "DINO", "COCO", 80, (800, 1333), _FLASH_START[size], {"box_ap": box})
    for family, head, size, crop, miou in (
        ("upernet", "UperNet", "t", 512, (49.3, 50.3)),
        ("upernet", "UperNet", "s", 512, (50.6, 51.6)),
        ("upernet", "UperNet", "b", 512, (52.0, 52.6)),
        ("upernet", "UperNet", "l", 640, (55.6, 56.0)),
        ("mask2former", "Mask2Former", "t", 512, (51.2,)),
        ("mask2former", "Mask2Former", "s", 640, (52.6,)),
        ("mask2former", "Mask2Former", "b", 640, (53.4,)),
        ("mask2former", "Mask2Former", "l", 640, (56.7,)),
    ):
        stem = f"{family}_flash_internimage_{size}_{crop}_160k_ade20k" + ("_ss" if family == "mask2former" else "")
        scores = dict(zip(("miou", "miou_multi_scale"), miou, strict=False))
        yield entry(stem, "segmentation", size, head, "ADE20K", 150, (crop, crop), _FLASH_START[size], scores)


def _driving() -> Iterator[Released]:
    common = {"task": "driving", "model": "internimage_s", "repo": None}
    yield Released(
        name="vectormapnet_internimage",
        head="VectorMapNet",
        dataset="Argoverse 2",
        num_classes=3,
        resolution=(256, 480),
        pretraining=_1K["s"],
        scores={"map": 49.35},
        url=f"{_RELEASES}/track_model/vectormapnet_internimage.pth",
        file="vectormapnet_internimage.pth",
        config="vectormapnet_intern",
        **common,
    )
    yield Released(
        name="bevformer_intern-s_occ",
        head="occupancy",
        dataset="nuScenes occupancy",
        num_classes=17,
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
        pretraining=_1K["s"],
        scores={"ols": 32.5, "f_score": 22.4},
        by_hand=True,
        note="on Google Drive; the link is in the released README",
        **common,
    )
