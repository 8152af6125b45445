"""The file of the iNaturalist model: its names, what it is taken for, and what becomes of a file without its branch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import internimage
from internimage.backbones import SIZES, InternImage
from internimage.models import InternImageClassifier
from internimage.weights import ModelCard, WeightsError, catalog, convert, read_model, save_model, to_released
from internimage.weights.architecture import architecture_of
from internimage.weights.checkpoint import Checkpoint, Part, open_checkpoint
from tests.weights.small import H, assert_same_state, classifier

META = replace(H, use_metadata=True)
ENCODER = [("0", "fc0"), ("2", "norm0"), ("3.w1", "fc1"), ("3.norm_fn1", "norm1"), ("3.w2", "fc2")]
ENCODER += [("3.norm_fn2", "norm2")]


def test_released_names_and_shapes():
    state, model = to_released(classifier(META, 5)), classifier(META, 5)
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items() if key.startswith("meta_")}
    assert len(shapes) == 28
    for branch, ours, inputs in (("meta_head_1", "temporal", 4), ("meta_head_2", "spatial", 3)):
        assert shapes[f"{branch}.0.weight"] == (64, inputs) and shapes[f"{branch}.3.w2.weight"] == (64, 64)
        for released, name in ENCODER:
            for part in ("weight", "bias"):
                want = model.get_parameter(f"metadata.{ours}.{name}.{part}")
                assert torch.equal(state[f"{branch}.{released}.{part}"], want)
    assert shapes["meta_norm.weight"] == (128,) and shapes["meta_head.weight"] == (5, 128)
    assert "meta_norm.0.weight" not in shapes, "a plain norm, without the index of others"


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_released_file_is_recognised_by_its_shapes(prefix):
    with torch.device("meta"):
        model = internimage.create_model("internimage_h_meta")
    shapes = {prefix + key: tuple(tensor.shape) for key, tensor in to_released(model).items()}
    checkpoint = Checkpoint("made up", [Part(shapes, lambda: ())])
    assert architecture_of(checkpoint) == (SIZES["internimage_h_meta"], 8142)
    plain = {key: shape for key, shape in shapes.items() if "meta_" not in key}
    assert architecture_of(Checkpoint("made up", [Part(plain, lambda: ())])) == (SIZES["internimage_h"], 8142)


@pytest.mark.parametrize("form", ["released", "ours"])
def test_a_file_loads_and_what_is_loaded_is_what_was_saved(form, tmp_path):
    source, model = classifier(META), classifier(META, seed=1)
    path = tmp_path / "a.pth"
    torch.save({"model": to_released(source) if form == "released" else source.state_dict(), "epoch": 99}, path)
    report = internimage.load_weights(model, path)
    assert report.complete and not report.skipped
    assert_same_state(model.state_dict(), source.state_dict())


def test_conversions_there_and_back_keep_every_bit(tmp_path):
    source = classifier(META)
    card = ModelCard(name="small", config=META, num_classes=5)
    save_model(tmp_path / "a.safetensors", source.state_dict(), card)
    convert(tmp_path / "a.safetensors", tmp_path / "b.pth", "released")
    convert(tmp_path / "b.pth", tmp_path / "c", "hf")
    convert(tmp_path / "c", tmp_path / "d.safetensors", "safetensors")
    tensors, again = read_model(tmp_path / "d.safetensors")
    assert again == card and open_checkpoint(tmp_path / "d.safetensors").card == card
    assert_same_state({name: tensors[name] for name in source.state_dict()}, source.state_dict())


def test_the_image_part_alone_goes_into_a_network_without_the_branch():
    source, model = classifier(META), classifier(H, seed=1)
    report = internimage.load_weights(model, to_released(source))
    assert report.complete and "the logits are those of the image alone" in " ".join(report.skipped)
    report = internimage.load_weights(InternImage(H), to_released(source))
    assert report.complete and "date and place" not in " ".join(report.skipped)


def test_a_network_with_the_branch_starts_from_one_without_and_other_classes():
    """As the released model was made: ImageNet-22K first, then iNaturalist with a new classifier and a new branch."""
    source = classifier(H, num_classes=7)
    model = classifier(META, seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = internimage.load_weights(model, to_released(source))
    assert report.complete and "7 classes and the model 5" in report.kept_classifier
    for name, tensor in model.state_dict().items():
        kept = name.startswith(("metadata.", "head.fc."))
        assert torch.equal(tensor, before[name] if kept else source.state_dict()[name])
    with torch.device("meta"):
        model = InternImageClassifier(META, 5)
    internimage.load_weights(model, to_released(source))
    assert model.metadata.norm.weight.eq(1).all() and model.metadata.fc.bias.eq(0).all()
    assert 0 < model.metadata.spatial.fc1.weight.std() < 0.03
    assert model(torch.zeros(1, 3, 64, 64)).isfinite().all()


def test_other_classes_leave_what_the_branch_has_learned():
    source, model = classifier(META, num_classes=7), classifier(META, seed=1)
    internimage.load_weights(model, to_released(source))
    assert torch.equal(model.metadata.temporal.fc0.weight, source.metadata.temporal.fc0.weight)
    assert model.metadata.fc.out_features == 5


def test_the_same_classes_without_the_branch_are_refused_with_advice():
    """It would answer at random: nobody expects to train a model of the right classes."""
    with pytest.raises(WeightsError, match="no branch for date and place"):
        internimage.load_weights(classifier(META), to_released(classifier(H)))
    assert not internimage.load_weights(classifier(META), to_released(classifier(H)), strict=False).complete


def test_the_catalog_has_it_with_its_parameters():
    entry = catalog.get("internimage_h_22ktoinat18_384")
    model = internimage.create_model("internimage_h_meta", device="meta")
    assert (entry.model, entry.loads_into, entry.scores) == ("internimage_h_meta", "classifier", {"top1": 92.6})
    assert entry.params == sum(parameter.numel() for parameter in model.parameters())


def test_create_model_asks_for_it_or_for_the_network_it_started_from(monkeypatch):
    asked = []
    monkeypatch.setattr("internimage.weights.load_weights", lambda model, source, **_: asked.append(source))
    model = internimage.create_model("internimage_h_meta", pretrained=True)
    assert model.num_classes == 8142
    internimage.create_model("internimage_h_meta", pretrained="internimage_h_jointto22k_384", num_classes=8142)
    assert asked == ["internimage_h_22ktoinat18_384", "internimage_h_jointto22k_384"]
    with pytest.raises(ValueError, match="weights of internimage_g"):
        internimage.create_model("internimage_h_meta", pretrained="internimage_g_22kto1k_512")


def test_load_takes_the_released_file_for_what_it_is(tmp_path, monkeypatch):
    """A made-up file in the released form and under the released name, of a small network."""
    monkeypatch.setattr("internimage.weights.architecture.SIZES", {"internimage_h": H})
    path = tmp_path / "internimage_h_22ktoinat18_384.pth"
    torch.save({"model": to_released(classifier(META, 12))}, path)
    got = internimage.load(path, device="cpu")
    assert got.takes_metadata and got.preprocessing.image_size == 384
    assert got.class_names[11] == "class 11", "the names of iNaturalist come with its files only"
