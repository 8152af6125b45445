"""Hugging Face data sets, saved to disk: columns, splits, class names."""

from __future__ import annotations

import pytest

from internimage.data.formats import open_dataset
from internimage.data.hub import read_hub
from internimage.data.loaders import evaluation_batches
from internimage.data.pictures import PictureError
from tests.data.made_up import as_bytes, noise, save_noise
from tests.data.test_loaders import plain

datasets = pytest.importorskip("datasets")
CELLS = [{"bytes": as_bytes(noise(number)), "path": None} for number in range(3)]


def save(path, split="train", image="image", label="label", values=(1, 0, 1), kind=None, cells=CELLS, **more):
    features = {image: datasets.Image(), label: kind or datasets.ClassLabel(names=["cat", "dog"])}
    features.update({name: feature for name, (feature, _) in more.items()})
    rows = {image: cells, label: list(values), **{name: column for name, (_, column) in more.items()}}
    table = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    (datasets.DatasetDict({split: table}) if split else table).save_to_disk(path)
    return path


@pytest.mark.parametrize("split", ["train", None])
def test_columns_and_names_are_found(tmp_path, split):
    found = read_hub(save(tmp_path, split, "img", "fine_label"), "train")
    assert found.class_names == ("cat", "dog") and found.labels.tolist() == [1, 0, 1]
    assert found.read(2).picture.tobytes() == noise(2).tobytes() and found.name(2).endswith("row 2")
    assert len(list(evaluation_batches(found, plain, batch_size=2, workers=1))) == 2


@pytest.mark.parametrize(
    ("kind", "values", "names"),
    [
        (datasets.Value("int64"), (1, 0, 2), ("class 0", "class 1", "class 2")),
        (datasets.Value("string"), ("owl", "bee", "owl"), ("bee", "owl")),
    ],
)
def test_classes_may_be_numbers_or_names(tmp_path, kind, values, names):
    found = read_hub(save(tmp_path, kind=kind, values=values), "train")
    assert found.class_names == names and found.labels.tolist() == [1, 0, 2 if len(names) == 3 else 1]


@pytest.mark.parametrize("asked", ["val", "test", "validation"])
def test_a_validation_split_serves_for_both(tmp_path, asked):
    assert len(read_hub(save(tmp_path, "validation"), asked)) == 3


def test_a_picture_that_is_not_there_or_broken_is_named(tmp_path):
    (tmp_path / "1.png").write_bytes(as_bytes(noise(1)))
    cells = [None, {"bytes": b"no picture", "path": None}, {"bytes": None, "path": str(tmp_path / "1.png")}]
    found = read_hub(save(tmp_path / "saved", cells=cells), "train")
    with pytest.raises(PictureError, match="row 0: there is no picture in it"):
        found.read(0)
    with pytest.raises(PictureError, match="row 1: not a picture"):
        found.read(1)
    assert found.read(2).picture.tobytes() == noise(1).tobytes()


def test_a_folder_of_class_folders_may_be_opened_by_datasets(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for number, name in enumerate(("cat/1.png", "dog/2.png")):
        save_noise(tmp_path / "pictures" / "train" / name, number)
    found = open_dataset(f"hf:{tmp_path}/pictures")
    assert found.class_names == ("cat", "dog") and found.read(1).picture.tobytes() == noise(1).tobytes()


def test_what_does_not_fit_is_refused(tmp_path):
    path = save(tmp_path / "a")
    with pytest.raises(ValueError, match="has no split 'val', it has train"):
        read_hub(path, "val")
    with pytest.raises(ValueError, match="has no column 'photo' of pictures, it has image"):
        read_hub(path, "train", image_column="photo")
    with pytest.raises(ValueError, match="has no column 'kind', it has image, label"):
        read_hub(path, "train", label_column="kind")
    two = save(tmp_path / "b", second=(datasets.Image(), CELLS))
    with pytest.raises(ValueError, match=r"has 2 columns of pictures \(image, second\), name one: image_column"):
        read_hub(two, "train")
    assert len(read_hub(two, "train", image_column="second")) == 3
    with pytest.raises(ValueError, match="name the one of classes: label_column"):
        read_hub(save(tmp_path / "c", label="kind_of", kind=datasets.Value("int64")), "train")
    with pytest.raises(ValueError, match="some rows have no class; choose another split"):
        read_hub(save(tmp_path / "d", kind=datasets.Value("int64"), values=(-1, -1, -1)), "train")
    with pytest.raises(ValueError, match="expected numbers or names of classes"):
        read_hub(save(tmp_path / "e", kind=datasets.Value("float32"), values=(0.5, 1, 2)), "train")
    with pytest.raises(ValueError, match="'owl' is none of the 1 classes"):
        path = save(tmp_path / "f", kind=datasets.Value("string"), values=("owl", "bee", "owl"))
        read_hub(path, "train", class_names=("bee",))
    with pytest.raises(ValueError, match="hf: stands before the name of a data set, such as hf:cifar10"):
        read_hub("", "train")
    (tmp_path / "g").mkdir()
    with pytest.raises(ValueError, match="cannot be opened: "):
        read_hub(tmp_path / "g", "train")
