"""Folders of class folders: what is found, read, left out and refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from internimage.data import in_memory
from internimage.data.formats import open_dataset
from internimage.data.image_folder import find_image_folder
from internimage.data.in_memory import read_into_memory
from internimage.data.transforms import Preprocessing

SMALL = Preprocessing(image_size=8, interpolation="bilinear")


def save(path, level: int, size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, 0, 255 - level)).save(path)


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / "dog" / "1.png", 200)
    save(tmp_path / "cat" / "b.png", 10)
    save(tmp_path / "cat" / "below" / "a.jpg", 20)
    (tmp_path / "cat" / "broken.png").write_bytes(b"not a picture")
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / ".cache").mkdir()
    return tmp_path


def test_classes_are_folders_sorted_by_name(folder):
    found = find_image_folder(folder)
    assert found.class_names == ("cat", "dog") and found.labels.tolist() == [0, 0, 0, 1]
    assert [path.removeprefix(f"{folder}/") for path in map(found.name, range(len(found)))] == [
        "cat/b.png", "cat/below/a.jpg", "cat/broken.png", "dog/1.png",
    ]  # fmt: skip
    assert list(open_dataset(folder, "train").samples()) == list(found.samples())


def test_pictures_are_framed_as_the_model_sees_them_and_unreadable_ones_named(folder):
    counts = []
    data = read_into_memory(find_image_folder(folder), SMALL, lambda done, total: counts.append((done, total)))
    assert data.images.shape == (3, 3, 8, 8) and data.labels.tolist() == [0, 0, 1]
    want = np.array(SMALL.frame(Image.open(folder / "dog" / "1.png")))
    assert torch.equal(data.images[2].permute(1, 2, 0), torch.from_numpy(want))
    assert len(data.unreadable) == 1 and "broken.png" in data.unreadable[0]
    assert counts == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_grey(folder):
    grey = Preprocessing(image_size=8, interpolation="bilinear", mode="L", mean=(0.5,), std=(0.5,))
    assert read_into_memory(find_image_folder(folder), grey).images.shape == (3, 1, 8, 8)


def test_refusals(tmp_path, folder, monkeypatch):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        find_image_folder(tmp_path / "missing")
    with pytest.raises(ValueError, match="holds no folders, expected a folder a class"):
        find_image_folder(folder / "dog")
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no pictures"):
        find_image_folder(folder)
    (folder / "empty" / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match="none of the pictures of class 'empty' can be read"):
        read_into_memory(find_image_folder(folder), SMALL)
    monkeypatch.setattr(in_memory, "MAX_BYTES_IN_MEMORY", 100)
    with pytest.raises(ValueError, match="kept in memory"):
        read_into_memory(find_image_folder(folder), SMALL)
