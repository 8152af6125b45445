"""Pictures read when they are due: what tells a run from another, and how many are measured at a time."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from PIL import Image

from internimage.data.order import Share
from internimage.data.shards import Shards
from internimage.processes import Processes
from internimage.recipes import ClassificationRecipe, get_recipe
from internimage.recipes.overrides import override
from internimage.train.classification.file_source import PicturesFromFiles
from internimage.train.classification.sources import Reading, open_source
from tests.data.made_up import save_noise


@pytest.fixture
def recipe(tmp_path):
    for number in range(24):
        save_noise(tmp_path / "ab"[number % 2] / f"{number}.png", number)
    return ClassificationRecipe(
        name="files",
        model="internimage_femto",
        data=str(tmp_path),
        held_out=0.5,
        image_sizes=(32,),
        epochs=1,
        batch_size=8,
        lr=1e-3,
    )


def fingerprint(recipe, world_size, **reading) -> str:
    return open_source(recipe, Processes(world_size=world_size), Reading(**reading)).fingerprint


def test_a_run_goes_on_with_another_number_of_processes_only_where_the_order_stays(recipe):
    assert fingerprint(recipe, 1) == fingerprint(recipe, 2) == fingerprint(recipe, 2, accumulation=2)
    assert fingerprint(recipe, 1, cache="memory") == fingerprint(recipe, 1)
    assert fingerprint(recipe, 2, cache="memory") == f"{fingerprint(recipe, 1)}, dealt out to 2 processes"
    assert fingerprint(recipe, 2, cache="full") == fingerprint(recipe, 1)


def test_shards_are_dealt_out_by_processes_and_micro_batches(recipe):
    shards = Shards(["a.tar", "b.tar"], [40, 40], ["a", "b"])
    found = [
        PicturesFromFiles(recipe, shards, None, Processes(world_size=size), accumulation=accumulation).fingerprint
        for size, accumulation in ((1, 1), (2, 1), (2, 2))
    ]
    assert found == [shards.fingerprint + f"{dealt}" for dealt in (
        "", ", dealt out to 2 processes", ", dealt out to 2 processes and 2 micro-batches",
    )]  # fmt: skip


def test_what_is_measured_at_a_time_fits_where_training_fits(recipe):
    processes = Processes(world_size=2)
    source = open_source(recipe, processes, Reading(accumulation=2))
    [(images, _)] = list(source.batches(0, 1, Share(0, 2, 2)))[:1]
    sizes = [len(labels) for _, labels in source.evaluation_batches(processes)]
    assert len(images) == 2 and sizes == [4, 2]  # twice as many: no activations are kept


def test_shards_go_with_recipes_that_read_files():
    shards, given = Shards(["a.tar"], [40], ["a", "b"]), get_recipe("own_pictures")
    with pytest.raises(ValueError, match="add --set source=files, or take a recipe that reads files"):
        open_source(given, Processes(), Reading(), parts=(shards, None))
    advised = override(get_recipe("internimage_t_1k_224"), ["dataset=None", "batch_size=8"])
    assert open_source(advised, Processes(), Reading(), parts=(shards, None)).steps_per_epoch == 5


def test_large_jpegs_may_be_decoded_at_a_part_of_their_size(tmp_path):
    for name in ("light", "dark"):
        (tmp_path / name).mkdir()
        for number in range(8):
            Image.new("RGB", (1024, 1024), name == "light" and "white" or "black").save(
                tmp_path / name / f"{number}.jpg"
            )
    recipe = replace(
        get_recipe("internimage_t_1k_224"), data=str(tmp_path), dataset=None, image_sizes=(32,), batch_size=8
    )
    sizes = []
    for fast in (False, True):
        source = open_source(recipe, Processes(), Reading(fast_decode=fast))
        sizes.append({source.trained_on.read(0).picture.size, source.held_out.read(0).picture.size})
    assert sizes == [{(1024, 1024)}, {(128, 128)}]


def test_a_run_goes_on_where_its_pictures_have_moved():
    here = replace(get_recipe("own_pictures"), data="here", subject="cats")
    assert replace(here, data="there", subject="").differences(asdict(here)) == []
