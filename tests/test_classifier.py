"""Classifier: pictures of every kind in, predictions out."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from PIL import Image

import internimage
from internimage.classifier import Classifier, Prediction
from internimage.data.pictures import PictureError
from internimage.data.transforms import Preprocessing
from internimage.models import create_model
from internimage.weights import convert, to_released
from tests.small_model import NAMES, NOTE, save_small_model, small_model

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model") / "small.safetensors")


@pytest.fixture(scope="module")
def classifier(model_file):
    return internimage.load(model_file, device="cpu")


def test_one_picture_gives_one_prediction(classifier):
    got = classifier.predict(Image.fromarray(PIXELS))
    assert isinstance(got, Prediction)
    assert sorted(got.labels) == sorted(NAMES) and got.top == got.labels[0]
    assert list(got.probs) == sorted(got.probs, reverse=True) and sum(got.probs) == pytest.approx(1, abs=1e-6)
    assert [NAMES[index] for index in got.indices] == list(got.labels)
    assert got.note == NOTE and NOTE in str(got)


def test_every_form_of_a_picture_gives_the_same_answer(classifier, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    forms = [
        path,
        str(path),
        PIXELS,
        PIXELS[..., None],
        PIXELS / 255,
        torch.from_numpy(PIXELS),
        torch.from_numpy(PIXELS)[None] / 255,
    ]
    want = classifier.predict(Image.fromarray(PIXELS))
    for got in classifier.predict(forms):
        assert got.labels == want.labels and got.probs == pytest.approx(want.probs, abs=1e-6)


def test_what_it_says_is_what_the_model_computes(classifier):
    with torch.no_grad():
        logits = classifier.model(classifier.preprocessing(Image.fromarray(PIXELS))[None])
    got = classifier.predict(PIXELS)
    assert list(got.probs) == pytest.approx(logits.softmax(-1)[0, list(got.indices)].tolist(), abs=1e-6)


def test_batches_are_their_pictures_one_by_one(classifier):
    pictures = [np.roll(PIXELS, shift) for shift in range(5)]
    together = classifier.predict(pictures, batch_size=2)
    for one, other in zip(together, [classifier.predict(picture) for picture in pictures], strict=True):
        assert one.labels == other.labels and one.probs == pytest.approx(other.probs, abs=1e-5)
    assert classifier.predict(np.stack(pictures)[..., None]) == classifier.predict(pictures)
    assert classifier.predict([]) == []


@pytest.mark.parametrize("top", [1, 2, 3, 99])
def test_top_is_how_many_answers(classifier, top):
    assert len(classifier.predict(PIXELS, top=top).labels) == min(top, 3)


@pytest.mark.parametrize("bad", [{"top": 0}, {"top": 2.5}, {"top": "3"}, {"batch_size": 0}], ids=str)
def test_numbers_that_mean_nothing_are_named(classifier, bad):
    ((name, value),) = bad.items()
    with pytest.raises(ValueError, match=f"{name} is {value!r}, expected an integer >= 1"):
        classifier.predict(PIXELS, **bad)


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (Image.new("RGB", (0, 0)), "image: 0 x 0 pixels"),
        (Image.fromarray(np.full((4, 4), np.nan, np.float32)), "image: some of its values are NaN"),
        (Image.fromarray(np.full((4, 4), np.inf, np.float32)), "NaN or infinite"),
    ],
    ids=["no pixels", "nan", "inf"],
)
def test_a_picture_that_shows_nothing_is_named(classifier, picture, words):
    with pytest.raises(PictureError, match=words):
        classifier.predict(picture)


@pytest.mark.parametrize("bad", [None, 3, b"bytes", [[PIXELS]], {"a": 1}], ids=str)
def test_what_is_no_picture_is_named(classifier, bad):
    with pytest.raises(ValueError, match="expected a PIL picture"):
        classifier.predict(bad)


def test_a_file_that_is_not_there_is_named(classifier):
    with pytest.raises(PictureError, match="missing.png"):
        classifier.predict("missing.png")


def test_a_model_that_gives_no_numbers_says_so(classifier):
    broken = Classifier(small_model(), classifier.preprocessing, NAMES)
    with torch.no_grad():
        broken.model.head.fc.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="float32"):
        broken.predict(PIXELS)


def test_it_stays_in_evaluation_mode_and_keeps_no_gradient():
    classifier = Classifier(small_model().train(), Preprocessing(image_size=32, mode="L", mean=(0,), std=(1,)), NAMES)
    assert not classifier.model.training
    assert not classifier.probabilities(torch.zeros(1, 1, 32, 32)).requires_grad


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64", torch.bfloat16], ids=str)
def test_the_model_computes_in_the_dtype_asked_for(model_file, classifier, dtype):
    other = internimage.load(model_file, device="cpu", dtype=dtype)
    assert {parameter.dtype for parameter in other.model.parameters()} == {other.dtype}
    want, got = (c.probabilities(c.prepare(PIXELS)[None]) for c in (classifier, other))
    assert (want - got).abs().max() < 0.02, "half types keep two to three digits"


def test_the_backend_asked_for_is_used(model_file):
    other = internimage.load(model_file, device="cpu", backend="reference")
    assert {module.backend for module in other.model.modules() if hasattr(module, "backend")} == {"reference"}
    with pytest.raises(internimage.ops.BackendError, match="nonsense"):
        internimage.load("internimage_t", backend="nonsense")  # before anything is downloaded


def test_a_released_file_is_known_by_its_contents_and_name(tmp_path):
    """A released checkpoint: model and number of classes from the tensors, size from the name, names of ImageNet."""
    torch.manual_seed(0)
    model = create_model("internimage_t", num_classes=1000).eval()
    path = tmp_path / "internimage_t_1k_96.pth"
    torch.save({"model": to_released(model)}, path)
    classifier = internimage.load(path, device="cpu")
    assert classifier.preprocessing == Preprocessing(image_size=96)
    assert classifier.class_names[207] == "golden retriever"
    picture = Image.fromarray(PIXELS)
    with torch.no_grad():
        want = model(classifier.preprocessing(picture)[None]).softmax(-1)[0]
    assert classifier.predict(picture).probs[0] == pytest.approx(float(want.max()), rel=1e-4)
    named = internimage.load("internimage_t", weights=path, device="cpu")
    assert named.predict(picture) == classifier.predict(picture)


@pytest.mark.parametrize("form, name", [("hf", "folder"), ("released", "model.pth"), ("safetensors", "a.safetensors")])
def test_a_converted_model_answers_as_before(form, name, model_file, classifier, tmp_path):
    convert(model_file, tmp_path / name, form)
    picture = Image.fromarray(PIXELS)
    assert internimage.load(tmp_path / name, device="cpu").predict(picture) == classifier.predict(picture)


def test_weights_of_another_model_are_refused(model_file, tmp_path):
    path = tmp_path / "small.pth"
    torch.save(small_model().state_dict(), path)
    with pytest.raises(ValueError, match="do not fit"):
        internimage.load("internimage_t", weights=path, device="cpu")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name_or_path": "internimage_tt"}, "internimage_t"),
        ({"name_or_path": "missing.safetensors"}, "missing.safetensors"),
        ({"name_or_path": "mask_rcnn_internimage_t_fpn_1x_coco"}, "no classifier"),
        ({"name_or_path": "mask_rcnn_flash_internimage_t_fpn_1x_coco"}, "no classifier"),
        ({"name_or_path": "internimage_t", "weights": "missing.pth"}, "missing.pth"),
        ({"name_or_path": ""}, "source of the weights is ''"),
        ({"device": "abacus"}, "abacus"),
        ({"device": "cuda:99"}, "cuda:99"),
        ({"device": "xpu:7"}, "xpu:7"),
        ({"dtype": "int8"}, "int8"),
        ({"dtype": torch.int32}, "int32"),
    ],
    ids=str,
)
def test_what_cannot_be_loaded_is_named(arguments, words, caplog):
    caplog.set_level(logging.CRITICAL)
    with pytest.raises((ValueError, OSError), match=words):
        internimage.load(**arguments)


def test_offline_a_released_name_says_what_to_do(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError, match="HF_HUB_OFFLINE"):
        internimage.load("internimage_t")


def test_a_missing_embedded_model_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("internimage.classifier.embedded_weights", lambda name: tmp_path / f"{name}.safetensors")
    with pytest.raises(FileNotFoundError, match="internimage_femto"):
        internimage.load()


def test_a_device_without_numbers_is_refused():
    with pytest.raises(ValueError, match="device 'meta' is not on this machine"):
        internimage.load(device="meta")


def test_weights_that_are_no_numbers_are_named():
    classifier = internimage.load(device="cpu")
    with torch.no_grad():
        for parameter in classifier.model.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(ValueError, match="no numbers in float32; the weights may be damaged"):
        classifier.predict(Image.new("L", (28, 28)))
