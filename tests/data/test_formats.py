"""Which format a text stands for, by what is there."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile

import pytest

from internimage.data.dataset import Subset, fingerprint
from internimage.data.formats import find_format, has_split, open_dataset
from internimage.data.hub import HubPictures
from internimage.data.image_folder import ImageFolder
from internimage.data.labelled import LabelledImages
from internimage.data.loaders import make_order
from internimage.data.order import Share
from internimage.data.picture_list import PictureList
from internimage.data.shards import Shards
from internimage.data.synthetic import synthetic_pictures
from internimage.data.zip_map import ZipPictures
from tests.data.made_up import as_bytes, noise, save_noise


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(("cat/1.png", "cat/2.png", "dog/1.png")):
        save_noise(tmp_path / name, number)
    return tmp_path


def write_tar(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, contents in (("1.png", as_bytes(noise(1))), ("1.cls", b"1")):
            info = tarfile.TarInfo(name)
            info.size = len(contents)
            archive.addfile(info, io.BytesIO(contents))


def test_a_folder_a_class(folder):
    found = open_dataset(folder)
    assert isinstance(found, ImageFolder) and found.class_names == ("cat", "dog") and len(found) == 3
    assert not has_split(folder, "val")
    with pytest.raises(
        ValueError, match="2 class folders and the data set 1 classes; they differ in 'cat' .the data set knows dog"
    ):
        open_dataset(folder, class_names=("dog",))


@pytest.mark.parametrize(("train", "val"), [("train", "val"), ("training", "validation"), ("Train", "Test")])
def test_a_folder_with_parts(tmp_path, train, val):
    save_noise(tmp_path / train / "cat" / "1.png", 1)
    save_noise(tmp_path / train / "dog" / "1.png", 2)
    save_noise(tmp_path / val / "cat" / "7.png", 3)
    save_noise(tmp_path / val / "dog" / "8.png", 3)
    (tmp_path / "devkit").mkdir()
    assert open_dataset(tmp_path).name(0).endswith("cat/1.png")
    assert (
        open_dataset(tmp_path, "val").name(0) == open_dataset(tmp_path, "test").name(0) == f"{tmp_path}/{val}/cat/7.png"
    )
    assert has_split(tmp_path, "val") and has_split(tmp_path, "test")


def test_a_folder_with_one_part_says_what_it_lacks(tmp_path):
    save_noise(tmp_path / "train" / "cat" / "1.png", 1)
    assert not has_split(tmp_path, "val")
    with pytest.raises(FileNotFoundError, match="holds train, and nothing for 'val'"):
        open_dataset(tmp_path, "val")


def test_lists_and_archives_by_name_and_by_split(folder):
    (folder / "all.csv").write_text("cat/1.png,0\n")
    assert isinstance(open_dataset(folder / "all.csv"), PictureList)
    assert isinstance(open_dataset(folder), ImageFolder)  # no list of a split
    (folder / "meta_data").mkdir()
    (folder / "meta_data" / "train.txt").write_text("cat/1.png 0\ndog/1.png 1\n")
    (folder / "val.json").write_text('[["dog/1.png", 1]]')
    assert len(open_dataset(folder)) == 2 and len(open_dataset(folder, "test", class_names=("a", "b"))) == 1
    assert has_split(folder, "val")
    with zipfile.ZipFile(folder / "train.zip", "w") as archive:
        archive.write(folder / "cat" / "1.png", "cat/1.png")
        archive.write(folder / "dog" / "1.png", "dog/1.png")
    assert isinstance(open_dataset(folder), ZipPictures) and isinstance(open_dataset(folder / "train.zip"), ZipPictures)
    assert isinstance(open_dataset(f"list:{folder}/val.json", root=folder), PictureList)


def test_a_part_may_lack_classes_or_order_them_otherwise_but_not_have_others(folder):
    with zipfile.ZipFile(folder / "val.zip", "w") as archive:
        archive.write(folder / "dog" / "1.png", "dog/1.png")
    (folder / "val.json").write_text('{"classes": ["dog", "cat"], "items": [["dog/1.png", 0]]}')
    assert open_dataset(folder / "val.zip", "val", class_names=("cat", "dog")).class_names == ("dog",)
    assert open_dataset(folder / "val.json", "val", class_names=("cat", "dog")).class_names == ("dog", "cat")
    for names, odd in ((("cat", "cow"), "dog"), (("dog", "Cat"), "cat")):
        with pytest.raises(ValueError, match=f"has 2 classes and the data set 2 classes; they differ in '{odd}'"):
            open_dataset(folder / "val.json", "val", class_names=names)


def test_shards_in_a_folder_and_by_pattern(tmp_path):
    write_tar(tmp_path / "train" / "a0.tar")
    write_tar(tmp_path / "train" / "a1.tar")
    for text in (tmp_path, tmp_path / "train", f"{tmp_path}/train/a{{0..1}}.tar", f"shards:{tmp_path}/train/a*.tar"):
        found = open_dataset(text)
        assert isinstance(found, Shards) and found.counts == (1, 1)
    assert find_format("https://example.org/{00..11}.tar", "train")[0] == "shards"
    assert find_format("pipe:cat x.tar", "train") == ("shards", "pipe:cat x.tar")
    assert make_order(found, 2, 0, Share()).steps_per_epoch == 1
    assert "2 pictures of 2 classes in shards" in fingerprint(found)


def test_a_saved_hugging_face_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"image": [{"bytes": as_bytes(noise(1)), "path": None}], "label": [1]}
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows, features=features)}).save_to_disk(
        tmp_path / "saved"
    )
    assert isinstance(open_dataset(tmp_path / "saved"), HubPictures)
    assert isinstance(open_dataset(f"hf:{tmp_path}/saved"), HubPictures)


def test_imagenet_22k_and_inaturalist_by_their_files(tmp_path):
    assert find_format(str(tmp_path), "train")[0] == "folder"
    (tmp_path / "22k_class_to_idx.json").write_text("{}")
    assert find_format(str(tmp_path), "train")[0] == "imagenet22k"
    (tmp_path / "val2018.json").write_text(json.dumps({}))
    assert find_format(str(tmp_path), "val")[0] == "inat18"


def test_names_that_are_no_files():
    assert isinstance(open_dataset("synthetic"), LabelledImages)
    assert find_format("fashion-mnist", "train") == ("fashion-mnist", "")
    assert find_format("hf:org/name:small", "train") == ("hf", "org/name:small")


def test_what_is_none_of_these_is_refused_with_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder nowhere, expected a folder a class, a list"):
        open_dataset("nowhere")
    with pytest.raises(FileNotFoundError, match="there is no file nowhere.csv, expected"):
        open_dataset("nowhere.csv")
    (tmp_path / "x.doc").write_text("")
    with pytest.raises(ValueError, match="x.doc is no data set, expected a folder a class"):
        open_dataset(tmp_path / "x.doc")
    with pytest.raises(ValueError, match="holds no folders, expected a folder a class"):
        (tmp_path / "empty").mkdir()
        open_dataset(tmp_path / "empty")
    with pytest.raises(ValueError, match="split is 'dev', expected one of train, val, test"):
        open_dataset(tmp_path, "dev")


def test_a_subset_is_a_data_set_of_its_own():
    whole = synthetic_pictures(count=6)
    part = Subset(whole, whole.labels.nonzero().flatten())
    assert len(part) == 3 and part.labels.tolist() == [1, 1, 1] and part.class_names == whole.class_names
    assert part.read(1).picture.tobytes() == whole.read(3).picture.tobytes() and part.name(1) == "picture 3"
    assert fingerprint(part) != fingerprint(Subset(whole, part.indices + 0 * part.indices - 1))
