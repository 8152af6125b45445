"""ImageNet-22K by its two lists."""

from __future__ import annotations

import json

import pytest

from internimage.data.formats import has_split
from internimage.data.imagenet22k import read_imagenet_22k
from tests.data.made_up import save_noise

CLASSES = {"n00004475": 0, "n99999999": 1}


@pytest.fixture
def folder(tmp_path):
    save_noise(tmp_path / "22k" / "n00004475" / "1.png", 0)
    save_noise(tmp_path / "22k" / "n99999999" / "2.png", 1)
    (tmp_path / "meta_data").mkdir()
    write(tmp_path, CLASSES, "n99999999/2.png n99999999\nn00004475/1.png n00004475\n")
    return tmp_path


def write(folder, classes, lines):
    (folder / "meta_data" / "22k_class_to_idx.json").write_text(json.dumps(classes))
    (folder / "meta_data" / "22k_label.txt").write_text(lines)


def test_labels_come_from_the_class_map_and_names_from_wordnet(folder):
    found = read_imagenet_22k(folder)
    assert found.labels.tolist() == [1, 0] and found.class_names == ("organism, being", "n99999999")
    assert found.read(1).label == 0 and found.name(0) == f"{folder}/22k/n99999999/2.png"


def test_it_has_no_part_to_measure_on_whatever_lies_beside_its_lists(folder):
    (folder / "meta_data" / "val.txt").write_text("n00004475/1.png 0\n")
    (folder / "val").mkdir()
    assert not has_split(folder, "val")


@pytest.mark.parametrize(
    ("classes", "lines", "words"),
    [
        ({"n1": 0, "n2": 2}, "n1/a.png n1\n", "is no class map, expected"),
        ([], "n1/a.png n1\n", "is no class map"),
        (CLASSES, "x.png n00004475\nx.png n2\n", "line 2 has the class 'n2', unknown to 22k_class_to_idx.json"),
        (CLASSES, "x.png\n", "line 1 is 'x.png', expected a path"),
        (CLASSES, "", "names no pictures"),
    ],
)
def test_wrong_lists_are_refused(folder, classes, lines, words):
    write(folder, classes, lines)
    with pytest.raises(ValueError, match=words):
        read_imagenet_22k(folder)


def test_missing_files_are_named(folder, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match="holds 22k_class_to_idx.json"):
        read_imagenet_22k(tmp_path_factory.mktemp("other"))
    write(folder, CLASSES, "gone.png n00004475\n")
    with pytest.raises(FileNotFoundError, match="such as 'gone.png', are not in"):
        read_imagenet_22k(folder)
    (folder / "meta_data" / "22k_label.txt").unlink()
    with pytest.raises(FileNotFoundError, match="there is no 22k_label.txt beside"):
        read_imagenet_22k(folder)
