"""Classifier: pictures with the date and place they were taken at."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import internimage
from internimage.data.metadata import spatial_vector, temporal_vector
from tests.small_model import save_metadata_model, save_small_model

PICTURES = [np.random.default_rng(seed).integers(0, 256, (32, 32), dtype=np.uint8) for seed in range(3)]
HERE = (48.1, 11.6)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return internimage.load(save_metadata_model(tmp_path_factory.mktemp("model") / "dated.safetensors"), device="cpu")


def test_it_is_what_the_model_computes_for_the_vectors(classifier):
    batch = classifier.prepare(PICTURES[0])[None]
    with torch.no_grad():
        logits = classifier.model(batch, temporal_vector("2018-03-01")[None], spatial_vector(*HERE)[None])[0]
    got = classifier.predict(PICTURES[0], date="2018-03-01", location=HERE)
    assert list(got.probs) == pytest.approx(logits.softmax(-1)[list(got.indices)].tolist(), abs=1e-6)


def test_without_them_they_are_unknown(classifier):
    assert classifier.takes_metadata
    plain, dated = (classifier.predict(PICTURES[0], date=date) for date in (None, "2018-03-01"))
    batch = classifier.prepare(PICTURES[0])[None]
    assert plain == classifier.answers(batch)[0]
    assert sorted(plain.probs) != pytest.approx(sorted(dated.probs), abs=1e-3)


def test_each_picture_of_several_batches_gets_its_own(classifier):
    dates, places = ["2018-01-01", None, "2018-06-01"], [None, HERE, (-33.9, 151.2)]
    together = classifier.predict(PICTURES, batch_size=2, date=dates, location=places)
    alone = [
        classifier.predict(picture, date=date, location=place)
        for picture, date, place in zip(PICTURES, dates, places, strict=True)
    ]
    for one, other in zip(together, alone, strict=True):
        assert one.labels == other.labels and one.probs == pytest.approx(other.probs, abs=1e-5)
    same = classifier.predict(PICTURES, date="2018-01-01", location=HERE)
    assert same[2].probs == pytest.approx(
        classifier.predict(PICTURES[2], date="2018-01-01", location=HERE).probs, abs=1e-5
    )
    assert classifier.predict([], date="2018-01-01") == []


def test_half_precision(classifier, tmp_path):
    other = internimage.load(save_metadata_model(tmp_path / "m.safetensors"), device="cpu", dtype="bfloat16")
    want, got = (c.predict(PICTURES[0], date="2018-03-01", location=HERE, top=3) for c in (classifier, other))
    assert dict(zip(got.labels, got.probs, strict=True)) == pytest.approx(
        dict(zip(want.labels, want.probs, strict=True)), abs=0.05
    )


def test_a_model_that_takes_none_says_so(tmp_path):
    other = internimage.load(save_small_model(tmp_path / "small.safetensors"), device="cpu")
    assert not other.takes_metadata
    for given in ({"date": "2018-03-01"}, {"location": HERE}):
        with pytest.raises(ValueError, match="small knows nothing of dates and places.*internimage_h_meta"):
            other.predict(PICTURES[0], **given)


def test_it_is_evaluated_without_dates(classifier):
    from internimage.data.labelled import LabelledImages
    from internimage.evaluate.classification import evaluate_classifier

    images = torch.from_numpy(np.stack(PICTURES))[:, None]
    data = LabelledImages(images=images, labels=torch.tensor([0, 1, 2]), class_names=classifier.class_names)
    assert evaluate_classifier(classifier, data).pictures == 3
