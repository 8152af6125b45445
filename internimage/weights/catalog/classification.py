"""The released classifiers: ImageNet-1K, ImageNet-22K, iNaturalist 2018; as files and as Hugging Face models."""

from __future__ import annotations

from collections.abc import Iterator

from .entry import Released

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


def classification() -> Iterator[Released]:
    def entry(
        stem: str, size: str, side: int, top1: float | None, pretraining: str | None, classes: int = 1000, **rest
    ):
        return Released(
            name=stem,
            file=f"{stem}.pth",
            task="classification",
            dataset={1000: "ImageNet-1K", 21841: "ImageNet-22K", 8142: "iNaturalist 2018"}[classes],
            num_classes=classes,
            resolution=(side, side),
            pretraining=pretraining,
            scores={} if top1 is None else {"top1": top1},
            **{
                "model": f"internimage_{size}",
                "head": "classifier",
                "params": _EXACT_PARAMS[size][classes == 21841],
                "config": stem,
                **rest,
            },
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
        model="internimage_h_meta",
        params=1_096_197_516,
        head="classifier and metadata branch",
        note="the score is with date and place; without them their branch gets zeros, as in training where they lack",
    )
    yield entry("internimage_l_22k_192to384", "l", 384, None, None, 21841, config=None)
    yield entry("internimage_xl_22k_192to384", "xl", 384, None, None, 21841, config=None)
    yield entry("internimage_h_jointto22k_384", "h", 384, None, _JOINT, 21841, config=None)
    yield entry("internimage_g_pretrainto22k_384", "g", 384, None, _JOINT, 21841, config=None)


def hugging_face() -> Iterator[Released]:
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
        twin = next(entry for entry in classification() if entry.name == (original or stem))
        yield Released(
            name=f"OpenGVLab/{stem}",
            repo=f"OpenGVLab/{stem}",
            file=None,
            note=f"{twin.name} in Hugging Face format",
            task=twin.task,
            model=twin.model,
            head=twin.head,
            dataset=twin.dataset,
            num_classes=twin.num_classes,
            resolution=twin.resolution,
            pretraining=twin.pretraining,
            scores=twin.scores,
            params=twin.params,
        )
