"""Classification as a task: data, loss, measure, exact resume with a real InternImage, and the file that comes out."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

import internimage
from internimage.data.augment import Augmentation
from internimage.data.labelled import LabelledImages
from internimage.data.labels import imagenet_22k, imagenet_22k_names
from internimage.data.order import Share
from internimage.data.split import stratified_split
from internimage.data.synthetic import synthetic_pictures
from internimage.evaluate.classes import match_part
from internimage.processes import Processes
from internimage.recipes import RECIPES, ClassificationRecipe, get_recipe
from internimage.recipes.augmentation import Mixing
from internimage.recipes.classification import smoke
from internimage.train.checkpoint import Checkpoints, read_checkpoint
from internimage.train.classification.memory_source import PicturesInMemory, fingerprint
from internimage.train.classification.sources import Reading, open_measured, open_source
from internimage.train.classification.task import ClassificationTask
from internimage.train.loop import fit, full_weights
from internimage.train.state import new_state
from internimage.train.strategies import make_strategy
from internimage.weights.imagenet_22k import IMAGENET_1K_IN_22K, imagenet_1k_ids
from internimage.weights.own import read_card
from tests.data.made_up import save_noise

from .toy import Watcher

ALONE = Processes()
CPU = torch.device("cpu")


def recipe(**changes) -> ClassificationRecipe:
    return replace(
        smoke(get_recipe("own_pictures")),
        **{**dict(epochs=2, batch_size=8, held_out=8 / 48, drop_path_rate=0.3, lr=2e-3), **changes},
    )


def parts(chosen: ClassificationRecipe, pictures: LabelledImages) -> tuple[LabelledImages, LabelledImages]:
    mine, held_out = stratified_split(pictures.labels, chosen.held_out, chosen.seed)
    return pictures.subset(mine), pictures.subset(held_out)


def task(chosen: ClassificationRecipe) -> ClassificationTask:
    pictures = synthetic_pictures(count=48, channels=chosen.channels)
    return ClassificationTask(chosen, PicturesInMemory(chosen, *parts(chosen, pictures), CPU))


def state_of(chosen: ClassificationRecipe):
    return new_state(task(chosen), chosen, make_strategy(None, ALONE))


def batch(made: ClassificationTask, step: int):
    return next(iter(made.batches(step, step + 1, Share())))


def test_stop_at_5_resume_and_step_10_is_bit_identical(tmp_path):
    chosen = recipe()
    whole = state_of(chosen)
    assert fit(whole, Checkpoints(tmp_path / "whole"), []) and whole.step == 10

    halved, watcher = Checkpoints(tmp_path / "halved"), Watcher()
    assert not fit(state_of(chosen), halved, [watcher], should_stop=lambda: len(watcher.steps) == 5)
    resumed = state_of(chosen)
    resumed.load(read_checkpoint(halved.newest()))
    assert fit(resumed, halved, []) and resumed.step == 10

    for which in ("model", "average"):
        want = full_weights(whole, which)
        for name, value in full_weights(resumed, which).items():
            assert torch.equal(value, want[name]), name
    start = task(chosen).make_model().state_dict()
    assert any(not torch.equal(value, start[name]) for name, value in full_weights(whole, "model").items())


def test_every_picture_is_seen_once_an_epoch_and_none_that_is_held_out():
    chosen = recipe(augmentation=Augmentation())
    pictures = synthetic_pictures(count=48)
    pictures.images[:, 0, 0, 0] = torch.arange(48, dtype=torch.uint8)  # each picture carries its number
    made = ClassificationTask(chosen, PicturesInMemory(chosen, *parts(chosen, pictures), CPU))
    mean, std = chosen.mean[0], chosen.std[0]
    orders = []
    for epoch in range(2):
        batches = list(made.batches(epoch * made.steps_per_epoch, (epoch + 1) * made.steps_per_epoch, Share()))
        numbers = torch.cat([((images[:, 0, 0, 0] * std + mean) * 255).round() for images, _ in batches]).int().tolist()
        labels = torch.cat([labels for _, labels in batches])
        assert torch.equal(labels, pictures.labels[numbers])
        orders.append(numbers)
    held_out = made.source.held_out.images[:, 0, 0, 0].tolist()
    assert len(held_out) == 8 and sorted(orders[0] + held_out) == list(range(48))
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]


def test_sizes_follow_the_epochs():
    chosen = recipe(image_sizes=(24, 32), augmentation=Augmentation())
    made = task(chosen)
    assert [batch(made, step)[0].shape[-1] for step in (0, 4, 5, 9)] == [24, 24, 32, 32]
    assert chosen.image_size == chosen.preprocessing.image_size == 32
    thirds = replace(chosen, image_sizes=(1, 2, 3), epochs=7)
    assert [thirds.image_size_at(epoch) for epoch in range(7)] == [1, 1, 1, 2, 2, 3, 3]


def test_the_loss_is_smoothed_cross_entropy_and_the_measure_counts(monkeypatch):
    chosen = recipe()
    made = task(chosen)
    logits = torch.randn(8, 2)
    want = F.cross_entropy(logits, torch.arange(8) % 2, label_smoothing=0.1)
    got = made.loss(lambda images: logits, (torch.zeros(8), torch.arange(8) % 2))
    torch.testing.assert_close(got["cross_entropy"], want)
    soft = torch.rand(8, 2).softmax(1)
    got = made.loss(lambda images: logits, (torch.zeros(8), soft))
    torch.testing.assert_close(got["cross_entropy"], -(soft * logits.log_softmax(1)).sum(1).mean())

    class Always(torch.nn.Module):
        def forward(self, images):
            return torch.tensor([1.0, 0.0]).expand(len(images), 2)

    share = (made.source.held_out.labels == 0).double().mean().item()
    loss = F.cross_entropy(torch.tensor([[1.0, 0.0]]), torch.tensor([[share, 1 - share]])).item()
    assert made.evaluate(Always(), ALONE) == {"top1": pytest.approx(100 * share), "loss": pytest.approx(loss)}
    made.source.held_out = made.source.held_out.subset(torch.arange(0))
    assert made.evaluate(Always(), ALONE) == {}


@pytest.mark.parametrize("trained_on", [imagenet_22k_names(), tuple(imagenet_22k())], ids=["names", "WordNet ids"])
def test_a_model_of_imagenet_22k_is_measured_on_imagenet_1k_by_its_thousand_outputs(trained_on):
    class Stub(torch.nn.Module):
        """Likes an output that is none of the thousand best, then that of class 3, then that of class 200."""

        def forward(self, images):
            logits = torch.zeros(len(images), 21841)
            logits[:, 1], logits[:, IMAGENET_1K_IN_22K[3]], logits[:, IMAGENET_1K_IN_22K[200]] = 9.0, 7.0, 5.0
            return logits

    chosen, images = recipe(batch_size=4), torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    ids = imagenet_1k_ids()
    held_out = LabelledImages(images=images, labels=torch.tensor([1, 1, 0, 1]), class_names=(ids[200], ids[3]))
    learned = LabelledImages(images=images, labels=torch.arange(4), class_names=trained_on)
    source = PicturesInMemory(chosen, learned, held_out, CPU)
    made = ClassificationTask(chosen, source)
    assert made.remarks == ["1,000 outputs of ImageNet-22K answer for the classes of ImageNet-1K"]
    got = made.evaluate(Stub(), ALONE)
    loss = math.log(math.exp(7) + math.exp(5) + 998) - (7 * 3 + 5) / 4  # over the thousand alone
    assert got == {"top1": 75.0, "top5": 100.0, "loss": pytest.approx(loss, rel=1e-5)}


def test_pictures_of_imagenet_1k_are_opened_beside_those_of_22k(tmp_path):
    """The numbers of a list are those of ImageNet-1K then, not of ImageNet-22K."""
    (tmp_path / "val.txt").write_text("".join(f"{number}.png {number}\n" for number in range(1000)))
    save_noise(tmp_path / "0.png", 0)
    found = open_measured(str(tmp_path / "val.txt"), imagenet_22k_names())
    assert match_part(found.class_names, imagenet_22k_names()).outputs == IMAGENET_1K_IN_22K


@pytest.mark.parametrize("world_size", [2, 3, 5, 60])
def test_processes_share_out_what_is_held_out(world_size):
    made = task(recipe())
    seen = []
    for rank in range(world_size):
        batches = list(made.source.evaluation_batches(Processes(rank=rank, world_size=world_size)))
        assert len(batches) == 1
        seen += batches[0][1][batches[0][1] >= 0].tolist()
    assert sorted(seen) == sorted(made.source.held_out.labels.tolist())


def test_processes_and_accumulation_share_out_a_step():
    chosen = recipe(augmentation=Augmentation())
    made = task(chosen)
    images, labels = batch(made, 3)
    shares = [Share(rank, 2, 2) for rank in range(2)]
    parts = [list(made.batches(3, 4, share)) for share in shares]
    ordered = [parts[0][0], parts[1][0], parts[0][1], parts[1][1]]
    assert torch.equal(torch.cat([part[1] for part in ordered]), labels)
    torch.testing.assert_close(torch.cat([part[0] for part in ordered]), images)


def test_bfloat16_is_near_float32():
    made = task(recipe())
    model = made.make_model().eval()
    one = batch(made, 0)
    want = made.loss(model, one)["cross_entropy"]
    with torch.autocast("cpu", torch.bfloat16):
        got = made.loss(model, one)["cross_entropy"]
    assert got.dtype == torch.float32 and abs(got - want) < 0.02 and got != want


def test_the_file_answers_like_the_averaged_model(tmp_path):
    chosen = replace(recipe(), subject="bars", stored_dtype="float16", epochs=1)
    state = state_of(chosen)
    fit(state, Checkpoints(tmp_path), [])
    path, made, weights = tmp_path / "bars.safetensors", state.task, full_weights(state, "average")
    made.save(path, weights, {"top1": state.history[-1]["ema_top1"]})
    card = read_card(path)
    assert card.class_names == ("upright", "lying") and card.note == "trained on bars, 2 classes"
    assert card.scores == {"held_out_top1": round(state.history[-1]["ema_top1"], 2)}
    assert card.preprocessing == chosen.preprocessing and path.stat().st_size < 3.1e6

    classifier = internimage.load(path, device="cpu")
    held_out = made.source.held_out
    pictures, _ = zip(*held_out.samples(), strict=True)
    mean, std = torch.tensor(chosen.mean).view(3, 1, 1), torch.tensor(chosen.std).view(3, 1, 1)
    model = made.make_model().eval()
    model.load_state_dict(weights)
    with torch.inference_mode():
        logits = model((held_out.images.float() / 255 - mean) / std)
    for answer, want in zip(classifier.predict(list(pictures)), logits.softmax(1), strict=True):
        assert answer.probs[answer.indices.index(0)] == pytest.approx(want[0].item(), abs=2e-3)


def test_one_class_is_refused():
    data = LabelledImages(images=torch.zeros(4, 3, 8, 8).byte(), labels=torch.zeros(4).long(), class_names=("shoe",))
    with pytest.raises(ValueError, match="all pictures are of one class, 'shoe'"):
        ClassificationTask(recipe(), PicturesInMemory(recipe(batch_size=4), data, data, CPU))


def test_a_fingerprint_tells_data_apart():
    data = synthetic_pictures(count=6)
    assert fingerprint(data) == fingerprint(synthetic_pictures(count=6)) and "6 pictures of 2 classes" in fingerprint(
        data
    )
    assert len({fingerprint(data), fingerprint(data.subset(torch.tensor([1, 0, 2, 3, 4, 5]))),
                fingerprint(replace(data, labels=1 - data.labels))}) == 3  # fmt: skip


@pytest.mark.parametrize("name", ["internimage_femto", "own_pictures", "internimage_t_1k_224"])
def test_every_kind_of_recipe_can_be_made_and_cut_down(name):
    full = get_recipe(name)
    assert full.name == name and RECIPES[name].__doc__
    small = smoke(full)
    assert small.data == "synthetic" and small.name != name
    source = open_source(small, ALONE, Reading())
    inputs, targets = next(iter(source.batches(0, 1, Share())))
    assert inputs.shape == (16, small.channels, 32, 32) and len(targets) == 16 and source.steps_per_epoch <= 10
    assert targets.is_floating_point() == bool(small.mixing) and source.held_out_count == 24


def test_pictures_in_memory_may_be_mixed():
    chosen = recipe(mixing=Mixing(mixup=0.8, cutmix=1.0))
    images, targets = batch(task(chosen), 3)
    assert targets.shape == (8, 2) and torch.allclose(targets.sum(1), torch.ones(8))
    again, same = batch(task(chosen), 3)
    assert torch.equal(images, again) and torch.equal(targets, same)


def test_one_picture_of_which_one_pixel_is_left_is_refused():
    made = task(recipe(image_sizes=(32,)))
    with pytest.raises(ValueError, match="a micro-batch of one picture of 32 pixels cannot be normalised"):
        made.batches(0, 1, Share(0, 1, made.recipe.batch_size))


def test_a_network_of_timm_is_trained_by_the_same_recipe(tmp_path):
    chosen = recipe(model="timm:test_resnet", epochs=1)
    state = state_of(chosen)
    assert fit(state, Checkpoints(tmp_path), [])
    state.task.save(tmp_path / "peer.safetensors", full_weights(state, "average"), {})
    with safe_open(tmp_path / "peer.safetensors", framework="pt") as file:
        card = json.loads(file.metadata()["timm"])
    assert card == {"name": "test_resnet", "in_chans": 3, "class_names": ["upright", "lying"]}
    with pytest.raises(ValueError, match="timm has no network 'resnet0'"):
        state_of(recipe(model="timm:resnet0"))
