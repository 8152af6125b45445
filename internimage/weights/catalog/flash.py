"""FlashInternImage: the same networks on DCNv4, in a repository of their own."""

from __future__ import annotations

from collections.abc import Iterator

from .entry import Released

DCNV4_REPO = "OpenGVLab/DCNv4"
_START = {size: f"flash_intern_image_{size}_1k_224" for size in "tsb"} | {"l": "flash_intern_image_l_22k_384"}
_PARAMS = {"t": 29_815_528, "s": 50_067_496, "b": 97_448_960, "l": 223_297_080}


def flash() -> Iterator[Released]:
    def entry(stem: str, task: str, size: str, head: str, dataset: str, classes: int, side, start, scores, **rest):
        return Released(
            name=stem,
            file=f"{stem}.pth",
            repo=DCNV4_REPO,
            task=task,
            model=f"flash_internimage_{size}",
            head=head,
            dataset=dataset,
            num_classes=classes,
            resolution=side,
            pretraining=start,
            scores=scores,
            **{"config": stem, **rest},
        )

    def classifier(stem, size, dataset, classes, side, start, scores, **rest):
        return entry(stem, "classification", size, "classifier", dataset, classes, (side, side), start, scores, **rest)

    for size, top1 in (("t", 83.6), ("s", 84.4), ("b", 84.9)):
        stem, params = f"flash_intern_image_{size}_1k_224", _PARAMS[size]
        yield classifier(stem, size, "ImageNet-1K", 1000, 224, None, {"top1": top1}, params=params)
    yield classifier(
        "flash_internimage_l_22kto1k_384",
        "l",
        "ImageNet-1K",
        1000,
        384,
        _START["l"],
        {"top1": 88.1},
        params=_PARAMS["l"],
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
        yield entry(stem, "detection", size, head, "COCO", 80, (800, 1333), _START[size], scores, config=config)
    for size, box in (("t", 54.7), ("s", 55.3), ("b", 56.0), ("l", 58.8)):
        stem = f"dino_4scale_flash_internimage_{size}_1x_coco"
        yield entry(stem, "detection", size, "DINO", "COCO", 80, (800, 1333), _START[size], {"box_ap": box})
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
        yield entry(stem, "segmentation", size, head, "ADE20K", 150, (crop, crop), _START[size], scores)
