"""Files as the repository of DCNv4 has them: which FlashInternImage they are, and that all of their entries load."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import internimage
from internimage.backbones import SIZES, InternImage
from internimage.models import FeatureExtractor
from internimage.weights import catalog, to_released
from internimage.weights.architecture import architecture_of, released_shapes
from internimage.weights.checkpoint import Checkpoint, Part
from tests.weights.small import FLASH, assert_same_state, classifier, randomize

NAMES = [f"flash_internimage_{size}" for size in "tsbl"]


def shapes_of(name: str, num_classes: int = 1000) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = internimage.create_model(name, num_classes=num_classes)
    return {key: tuple(tensor.shape) for key, tensor in to_released(model).items()}


@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_recognised_by_its_shapes(name, prefix):
    shapes = {prefix + key: shape for key, shape in shapes_of(name, 21841).items()}
    config, classes = architecture_of(checkpoint_of(shapes))
    assert (config, classes) == (SIZES[name], 21841)


def checkpoint_of(shapes: dict[str, tuple[int, ...]]) -> Checkpoint:
    return Checkpoint("made up", [Part(shapes, lambda: ())])


def test_layer_scales_in_a_detector_of_t_are_recognised():
    """The detectors have them, with 1 to start from; the classifier of T has none."""
    shapes = shapes_of("flash_internimage_t")
    for level, depth in enumerate(SIZES["flash_internimage_t"].depths):
        for block in range(depth):
            width = (64 * 2**level,)
            shapes |= {f"levels.{level}.blocks.{block}.gamma{number}": width for number in "12"}
    config, _ = architecture_of(checkpoint_of({f"backbone.{key}": shape for key, shape in shapes.items()}))
    assert config == dataclasses.replace(SIZES["flash_internimage_t"], layer_scale=1.0)
    assert set(released_shapes(shapes)) == set(shapes)


@pytest.mark.parametrize("task", ["detection", "segmentation"])
@pytest.mark.parametrize("make", [InternImage, FeatureExtractor])
def test_the_backbone_of_a_detector_or_segmenter(make, task):
    source, model = classifier(FLASH), randomize(make(FLASH), seed=1)
    heads = {"detection": ("neck.lateral_convs.0.ln.weight", "bbox_head.label_embedding.weight")}
    others = heads.get(task, ("decode_head.pixel_decoder.mask_feature.weight", "auxiliary_head.conv_seg.bias"))
    state = {f"backbone.{key}": tensor for key, tensor in to_released(source.backbone).items()}
    state |= {key: torch.ones(2) for key in others}
    report = internimage.load_weights(model, {"state_dict": state, "meta": {"epoch": 12}, "optimizer": {}})
    assert report.complete and sum(map(len, report.skipped.values())) == 2
    backbone = model if make is InternImage else model.backbone
    assert_same_state(backbone.state_dict(), source.backbone.state_dict())


def test_every_released_file_of_the_repository_is_in_the_catalog_with_its_size():
    files = [entry for entry in catalog.released().values() if entry.repo == "OpenGVLab/DCNv4"]
    assert len(files) == 5 + 8 + 4 + 8
    assert {entry.model for entry in files} == set(NAMES)
    assert all(entry.file.endswith(".pth") for entry in files)
