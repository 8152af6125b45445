"""The catalog knows every released file, and what it says of each hangs together."""

from __future__ import annotations

from collections import Counter

import pytest

from internimage.backbones import SIZES
from internimage.weights import catalog

ENTRIES = catalog.released()


def test_every_released_file_is_there():
    assert Counter((entry.task, entry.model.startswith("flash")) for entry in ENTRIES.values()) == {
        ("classification", False): 12 + 11,
        ("classification", True): 5,
        ("detection", False): 21,
        ("detection", True): 12,
        ("segmentation", False): 26,
        ("segmentation", True): 8,
        ("driving", False): 3,
    }


def test_what_entries_refer_to_exists():
    for entry in ENTRIES.values():
        assert entry.licence and entry.num_classes > 0
        assert entry.repo or entry.url or entry.by_hand
        assert entry.file in (None, f"{entry.name}.pth")
        if entry.pretraining and entry.pretraining.startswith(("internimage", "flash_", "mask", "segf", "dino")):
            assert entry.pretraining in ENTRIES
        if entry.loads_into:
            assert entry.model in SIZES
        assert all(0 < score <= 100 for score in entry.scores.values())


def test_the_defaults_are_classifiers_of_their_size():
    assert catalog.DEFAULTS.keys() == SIZES.keys() - {"internimage_femto"}
    for size, name in catalog.DEFAULTS.items():
        classes = 8142 if size == "internimage_h_meta" else 1000
        assert (ENTRIES[name].model, ENTRIES[name].num_classes, ENTRIES[name].loads_into) == (
            size,
            classes,
            "classifier",
        )


@pytest.mark.parametrize(
    ("name", "score", "value"),
    [
        ("internimage_g_22kto1k_512", "top1", 90.1),
        ("OpenGVLab/internimage_h_22kto1k_640", "top1", 89.6),
        ("cascade_internimage_xl_fpn_3x_coco", "mask_ap", 48.8),
        ("dino_4scale_cbinternimage_h_objects365_coco", "box_ap_test_dev", 65.4),
        ("mask2former_internimage_h_896_80k_cocostuff2ade20k", "miou_multi_scale", 62.9),
        ("mask_rcnn_flash_internimage_s_fpn_3x_coco", "mask_ap", 44.9),
        ("vectormapnet_internimage", "map", 49.35),
    ],
)
def test_published_scores(name, score, value):
    assert ENTRIES[name].scores[score] == value


def test_names_with_and_without_suffix_and_near_misses():
    assert catalog.find("internimage_t_1k_224.pth") is catalog.get("internimage_t_1k_224")
    assert catalog.find("internimage") is None
    with pytest.raises(ValueError, match="did you mean.*'internimage_xl_22k_192to384'"):
        catalog.get("internimage_xl_22k_384_192")
    with pytest.raises(ValueError, match="no released checkpoint 'resnet50'; `internimage models` lists"):
        catalog.get("resnet50")
