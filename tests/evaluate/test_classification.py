"""Counting right answers, against counts made by hand."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass

import pytest
import torch
from PIL import Image

from internimage.classifier import Classifier
from internimage.data.dataset import Sample
from internimage.data.labels import imagenet_1k_names, imagenet_22k_names
from internimage.data.transforms import Preprocessing
from internimage.evaluate.classification import evaluate_classifier, match_classes
from internimage.weights.imagenet_22k import IMAGENET_1K_IN_22K, imagenet_1k_ids

KNOWN = tuple("abcdefg")
GREY = Preprocessing(image_size=4, interpolation="nearest", mode="L", mean=(0.0,), std=(1.0,))


class Nearest(torch.nn.Module):
    """Answers class k for a picture of level 30 k, then the classes next to it."""

    def __init__(self, classes: int = len(KNOWN)) -> None:
        super().__init__()
        self.levels = torch.nn.Parameter(torch.arange(float(classes)) * 30)

    def forward(self, images):
        return -(images.mean((1, 2, 3))[:, None] * 255 - self.levels).abs()


@dataclass
class Pictures:
    """(level, label) pairs; a level given as text is a path."""

    pairs: list
    class_names: tuple[str, ...] = KNOWN

    def __len__(self):
        return len(self.pairs)

    def samples(self):
        for level, label in self.pairs:
            yield (level if isinstance(level, str) else Image.new("L", (4, 4), level)), label


def classifier(names=KNOWN) -> Classifier:
    return Classifier(Nearest(len(names)), GREY, names)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_counts_made_by_hand(batch_size):
    pairs = [(0, 0), (0, 0), (30, 0), (61, 2), (180, 0), (180, 1), (179, 6)]  # right: 1st, 2nd, 4th, 7th
    counts = []
    got = evaluate_classifier(classifier(), Pictures(pairs), batch_size=batch_size, progress=counts.append)
    assert got.top1 == pytest.approx(100 * 4 / 7)
    assert got.top5 == pytest.approx(100 * 5 / 7)  # among five nearest also the 3rd; 180 is nearest to g f e d c
    assert [(c.name, c.pictures, c.top1) for c in got.classes] == [
        ("a", 4, 50.0), ("b", 1, 0.0), ("c", 1, 100.0), ("g", 1, 100.0),
    ]  # fmt: skip
    assert sum(counts) == got.pictures == 7 and got.unreadable == () and got.images_per_s > 0


def test_unreadable_pictures_are_named_and_do_not_count(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    pairs = [(str(broken), 0), (0, 0), (30, 1), (str(tmp_path / "missing.png"), 2)]
    for batch_size in (1, 2, 3):
        got = evaluate_classifier(classifier(), Pictures(pairs), batch_size=batch_size)
        assert (got.top1, got.pictures, len(got.unreadable)) == (100.0, 2, 2)
        assert "broken.png" in got.unreadable[0] and "missing.png" in got.unreadable[1]
    with pytest.raises(ValueError, match="no picture can be read; .*broken.png"):
        evaluate_classifier(classifier(), Pictures(pairs[:1]))


def test_top5_says_nothing_of_five_classes():
    got = evaluate_classifier(classifier(KNOWN[:5]), Pictures([(0, 0)], KNOWN[:5]))
    assert got.top5 is None and got.as_dict()["top5"] is None
    assert evaluate_classifier(classifier(KNOWN[:2]), Pictures([(0, 1)], KNOWN[:2])).top1 == 0.0


def test_classes_go_by_name_whatever_their_order():
    names = ("C", "a")  # letters of either case
    got = evaluate_classifier(classifier(), Pictures([(60, 0), (0, 1), (0, 0)], names))
    assert got.top1 == pytest.approx(200 / 3) and [c.name for c in got.classes] == ["a", "c"]


def test_as_many_other_names_go_by_order():
    assert match_classes(("n01", "n02", "n03"), ("tench", "goldfish", "shark")) == [0, 1, 2]


@pytest.mark.parametrize("names", [("a", "z"), ("y", "z"), tuple("abcdefz")])
def test_classes_that_the_model_does_not_know(names):
    with pytest.raises(ValueError, match=f"the model does not know .* of the {len(names)} classes .*knows 7: a, b"):
        match_classes(names, KNOWN)


def test_no_pictures_and_no_batch():
    with pytest.raises(ValueError, match="there are no pictures"):
        evaluate_classifier(classifier(), Pictures([]))
    with pytest.raises(ValueError, match="batch_size is 0, expected 1 or more"):
        evaluate_classifier(classifier(), Pictures([(0, 0)]), batch_size=0)


def test_the_table_of_classes(tmp_path):
    scores = evaluate_classifier(classifier(), Pictures([(0, 0), (30, 0), (30, 0), (180, 0), (60, 2)]))
    scores.write_classes(tmp_path / "classes.csv")
    assert list(csv.reader((tmp_path / "classes.csv").read_text().splitlines())) == [
        ["class", "pictures", "top1", "top5", "taken_for", "taken_times"],
        ["a", "4", "25.00", "75.00", "b", "2"],
        ["c", "1", "100.00", "100.00", "", "0"],
    ]


def test_a_head_of_22k_is_measured_by_the_1000_outputs():
    class Answers(torch.nn.Module):
        """Prefers an output that is none of the thousand, then the class that is the level of the picture."""

        def __init__(self) -> None:
            super().__init__()
            self.nothing = torch.nn.Parameter(torch.zeros(1))

        def forward(self, images):
            logits = torch.zeros(len(images), 21841)
            logits[:, 1] = 9.0
            outputs = torch.tensor(IMAGENET_1K_IN_22K)[(images.mean((1, 2, 3)) * 255).round().long()]
            logits[torch.arange(len(images)), outputs] = 5.0
            return logits

    names = (imagenet_1k_ids()[3], imagenet_1k_ids()[200])
    classifier = Classifier(Answers(), GREY, imagenet_22k_names())
    got = evaluate_classifier(classifier, Pictures([(3, 0), (200, 1), (4, 1)], names))
    assert got.top1 == pytest.approx(200 / 3) and len(got.class_names) == 1000
    assert [c.name for c in got.classes] == [imagenet_1k_names()[3], imagenet_1k_names()[200]]
    right = math.log(999 + math.exp(5.0)) - 5.0  # over the thousand alone
    assert got.loss == pytest.approx((2 * right + right + 5.0) / 3, rel=1e-5)


def test_cross_entropy_and_the_confusion_by_hand():
    got = evaluate_classifier(classifier(), Pictures([(0, 0), (30, 0), (30, 0), (60, 2)]))
    assert got.confusion == ((0, 0, 1), (0, 1, 2), (2, 2, 1))
    levels = torch.arange(7.0) * 30
    want = [-(level - levels).abs() for level in (0, 30, 30, 60)]
    losses = [-torch.log_softmax(x, 0)[label] for x, label in zip(want, (0, 0, 0, 2), strict=True)]
    assert got.loss == pytest.approx(float(torch.stack(losses).mean()), rel=1e-4)


def test_date_and_place_go_to_a_model_that_takes_them():
    class Place(torch.nn.Module):
        """Answers by the place alone, where it is given one."""

        def __init__(self, metadata: object) -> None:
            super().__init__()
            self.metadata, self.unused = metadata, torch.nn.Parameter(torch.zeros(1))

        def forward(self, images, temporal=None, spatial=None):
            return torch.zeros(len(images), 3) if spatial is None else spatial

    class WithPlace(Pictures):
        labels = torch.tensor([2, 0, 1])

        def name(self, index):
            return str(index)

        def read(self, index):
            label = int(self.labels[index])
            return Sample(Image.new("L", (4, 4)), label, (torch.zeros(4), torch.eye(3)[label]))

    data = WithPlace([None] * 3, ("a", "b", "c"))
    for metadata, right in ("a branch", 3), (None, 1):
        got = evaluate_classifier(Classifier(Place(metadata), GREY, ("a", "b", "c")), data, batch_size=2)
        assert got.top1 == pytest.approx(100 * right / 3)
