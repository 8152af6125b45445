"""The released segmenters: ADE20K, Cityscapes, Mapillary, COCO-Stuff, Pascal Context, NYU."""

from __future__ import annotations

from collections.abc import Iterator

from .entry import PRETRAINED, Released


def segmentation() -> Iterator[Released]:
    def entry(
        stem: str, size: str, head: str, dataset: str, classes: int, miou, params: int, resolution, start, **rest
    ):
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
        yield entry(stem, size, "UperNet", "ADE20K", 150, miou, params, (crop, crop), PRETRAINED[size])
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
        yield entry(stem, size, "UperNet", "Cityscapes", 150, miou, params, wide, PRETRAINED[size], **only_19)
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
        yield entry(stem, size, head, "Mapillary Vistas", 150, (), params, wide, PRETRAINED[size], **only_19)
    h = PRETRAINED["h"]
    yield entry(mapillary, "h", "Mask2Former", "Mapillary Vistas", 19, (), 1094, (896, 896), h)
    yield entry(coco_stuff, "h", "Mask2Former", "COCO-Stuff 164k", 171, (52.6, 52.8), 1310, (896, 896), h)
    stem = "mask2former_internimage_h_512_40k_cocostuff164k_to_10k"
    yield entry(stem, "h", "Mask2Former", "COCO-Stuff 10k", 171, (59.2, 59.6), 1280, (512, 512), coco_stuff)
    stem = "mask2former_internimage_h_480_40k_pascal_context_59"
    yield entry(stem, "h", "Mask2Former", "Pascal Context", 59, (69.7, 70.3), 1070, (480, 480), h)
    stem = "mask2former_internimage_h_480_40k_nyu"
    yield entry(stem, "h", "Mask2Former", "NYU Depth v2", 40, (67.1, 68.1), 1070, (480, 480), h)
