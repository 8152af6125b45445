"""iNaturalist 2018: labels by category position, date and place of each picture."""

from __future__ import annotations

import json

import pytest
import torch

from internimage.data.inaturalist import read_inaturalist
from internimage.data.loaders import training_batches
from internimage.data.metadata import spatial_vector, temporal_vector
from internimage.data.order import EpochOrder
from tests.data.made_up import save_noise


def contents():
    return {
        "images": [{"id": 7, "file_name": f"train_val2018/Aves/{n}.png"} for n in range(4)],
        "annotations": [{"image_id": 7, "category_id": category} for category in (40, 10, 40, 20)],
        "categories": [{"id": 20, "name": "Larus"}, {"id": 40, "name": "Corvus"}, {"id": 10, "name": "Pica"}],
    }


PLACES = [
    {"date": "2017-05-03", "lat": 48.2, "lon": -16.4},
    {"date": None, "lat": None, "lon": 3.0},
    {"date": "some day", "lat": 500.0, "lon": 3.0},
    {"date": "2016-12-31", "lat": 0, "lon": 12.0},
]


@pytest.fixture
def folder(tmp_path):
    for number in range(4):
        save_noise(tmp_path / "train_val2018" / "Aves" / f"{number}.png", number)
    write(tmp_path, contents(), PLACES)
    return tmp_path


def write(folder, annotations, places, split="train"):
    (folder / f"{split}2018.json").write_text(json.dumps(annotations))
    (folder / f"{split}2018_locations.json").write_text(json.dumps(places))


def test_labels_are_positions_of_categories_and_metadata_stand_beside(folder):
    found = read_inaturalist(folder, "train")
    assert found.labels.tolist() == [1, 2, 1, 0] and found.class_names == ("Larus", "Corvus", "Pica")
    temporal, spatial = found.read(0).extras
    assert torch.equal(temporal, temporal_vector("2017-05-03")) and torch.equal(spatial, spatial_vector(48.2, -16.4))
    for index in (1, 2):  # missing, and what means nothing
        assert not found.read(index).extras[0].any() and not found.read(index).extras[1].any()
    assert found.read(3).extras[0].any() and not found.read(3).extras[1].any()  # a latitude of zero counts as missing


def test_batches_carry_them(folder):
    found = read_inaturalist(folder, "train")
    order = EpochOrder(4, 4, seed=0)
    (images, temporal, spatial), labels = next(
        training_batches(found, order, lambda p: torch.zeros(3, 2, 2), last_step=1)
    )
    assert images.shape == (4, 3, 2, 2) and temporal.shape == (4, 4) and spatial.shape == (4, 3) and len(labels) == 4


def test_the_validation_part_stands_for_the_test_part(folder):
    write(folder, contents(), PLACES, "val")
    assert len(read_inaturalist(folder, "val")) == len(read_inaturalist(folder, "test")) == 4


@pytest.mark.parametrize(
    ("change", "places", "words"),
    [
        ({}, PLACES[:3], "no list with a place for each of 4 images"),
        ({}, {"a": 1}, "no list with a place"),
        ({"images": None}, PLACES, "is no annotation file, expected lists images, annotations, categories"),
        ({"annotations": []}, PLACES, "4 images and 0 annotations"),
        ({"images": [{"id": 1}] * 4}, PLACES, 'an image has no "file_name"'),
        ({"categories": [{"id": 40, "name": "x"}]}, PLACES, "annotation 1 has the category 10, unknown"),
    ],
)
def test_wrong_files_are_refused(folder, change, places, words):
    write(folder, {**contents(), **change}, places)
    with pytest.raises(ValueError, match=words):
        read_inaturalist(folder, "train")


def test_missing_files_and_splits_are_named(folder):
    (folder / "train2018_locations.json").unlink()
    with pytest.raises(FileNotFoundError, match="there is no train2018_locations.json"):
        read_inaturalist(folder, "train")
    with pytest.raises(FileNotFoundError, match="there is no val2018.json"):
        read_inaturalist(folder, "val")
    with pytest.raises(ValueError, match="split is 'dev'"):
        read_inaturalist(folder, "dev")
