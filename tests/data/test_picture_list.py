"""Lists of pictures: CSV, JSON and lines of "path label"; where the pictures are looked for; what is refused."""

from __future__ import annotations

import json
import zipfile

import pytest

from internimage.data.dataset import check_every_class, fingerprint
from internimage.data.picture_list import read_picture_list
from internimage.data.pictures import PictureError
from tests.data.made_up import noise, save_noise


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(("a 1.png", "b.png", "deep/c.png")):
        save_noise(tmp_path / name, number)
    return tmp_path


def write(folder, name: str, text: str):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def check(found, labels=(0, 1, 0), class_names=("cat", "dog")):
    assert found.labels.tolist() == list(labels) and found.class_names == class_names
    for index in range(len(found)):
        sample = found.read(index)
        assert sample.picture.tobytes() == noise(index).tobytes() and sample.label == labels[index]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", "a 1.png,cat\nb.png,dog\ndeep/c.png,cat\n"),
        ("l.csv", "path,label\r\na 1.png,cat\r\nb.png,dog\r\n\r\ndeep/c.png,cat\r\n"),
        ("l.csv", "\ufeffa 1.png,0,cat\nb.png,1,dog\ndeep/c.png,0,cat"),
        ("l.csv", "label;x;file;class_name\n0;9;a 1.png;cat\n1;9;b.png;dog\n0;9;deep/c.png;cat\n"),
        ("l.csv", 'image,class_name\n"a 1.png",cat\nb.png,dog\ndeep/c.png,cat\n'),
        ("l.tsv", "a 1.png\t0\tcat\nb.png\t1\tdog\ndeep/c.png\t0\tcat\n"),
        ("l.txt", "a 1.png cat\nb.png dog\n\ndeep/c.png cat\n"),
        ("l.txt", "a 1.png\tcat\nb.png\tdog\ndeep/c.png\tcat\n"),
        ("l.json", '[["a 1.png", "cat"], ["b.png", "dog"], ["deep/c.png", "cat"]]'),
        (
            "l.json",
            '[{"path": "a 1.png", "label": 0, "class_name": "cat"}, {"file": "b.png", "label": 1, "class_name": "dog"},'
            ' {"path": "deep/c.png", "label": 0, "class_name": "cat"}]',
        ),
        ("l.json", '{"classes": ["cat", "dog"], "items": [["a 1.png", 0], ["b.png", 1], ["deep/c.png", "0"]]}'),
    ],
)
def test_every_spelling_of_a_list_means_the_same(folder, name, text):
    check(read_picture_list(write(folder, name, text)))


def test_numbers_without_names_are_called_as_imagenet_or_by_number(folder):
    assert read_picture_list(write(folder, "l.txt", "b.png 2\n")).class_names == ("class 0", "class 1", "class 2")
    assert read_picture_list(write(folder, "l.txt", "b.png 999\n")).class_names[0] == "tench"


def test_a_list_may_lie_beside_above_or_apart_from_its_pictures(folder, tmp_path_factory):
    lines = "a 1.png 0\nb.png 1\ndeep/c.png 0\n"
    names = ("class 0", "class 1")
    check(read_picture_list(write(folder.parent, f"{folder.name}.txt", lines)), class_names=names)  # dir.txt, dir/
    check(read_picture_list(write(folder.parent, f"meta_data/{folder.name}.txt", lines)), class_names=names)
    elsewhere = write(tmp_path_factory.mktemp("elsewhere"), "list.txt", lines)
    check(read_picture_list(elsewhere, root=folder), class_names=names)
    check(read_picture_list(write(elsewhere.parent, "l.csv", f"{folder}/a 1.png,0\n")), (0,), ("class 0",))
    with pytest.raises(FileNotFoundError, match="such as 'a 1.png', are not in .*; put the list into the folder"):
        read_picture_list(elsewhere)
    with pytest.raises(FileNotFoundError, match="are not in .*nowhere; put"):
        read_picture_list(elsewhere, root=folder / "nowhere")


def test_the_released_list_in_a_zip(folder):
    with zipfile.ZipFile(folder / "train.txt.zip", "w") as archive:
        archive.writestr("train.txt", "a 1.png 0\nb.png 1\ndeep/c.png 0\n")
    check(read_picture_list(folder / "train.txt.zip"), class_names=("class 0", "class 1"))


def test_a_part_follows_the_classes_of_the_whole(folder):
    path = write(folder, "val.csv", "b.png,dog\n")
    assert read_picture_list(path, class_names=("cat", "dog", "emu")).labels.tolist() == [1]
    with pytest.raises(ValueError, match="line 1 has the label 'dog', expected one of the 1 classes, such as 'cat'"):
        read_picture_list(path, class_names=("cat",))
    numbered = write(folder, "val.csv", "b.png,1,dog\n")
    assert read_picture_list(numbered, class_names=("cat", "dog")).class_names == ("cat", "dog")
    with pytest.raises(ValueError, match="line 1 calls class 1 'dog', which is 'emu' elsewhere"):
        read_picture_list(numbered, class_names=("cat", "emu"))
    with pytest.raises(ValueError, match="b.png has label 1, expected 0 to 0"):
        read_picture_list(numbered, class_names=("cat",))


def test_a_missing_or_broken_picture_is_named_when_it_is_read(folder):
    (folder / "broken.png").write_bytes((folder / "b.png").read_bytes()[:200])
    (folder / "empty.png").write_bytes(b"")
    found = read_picture_list(write(folder, "l.txt", "b.png 0\ngone.png 0\nbroken.png 1\nempty.png 0\n"))
    for index, words in ((1, "gone.png: No such file"), (2, "broken.png: broken picture"), (3, "empty.png: empty")):
        with pytest.raises(PictureError, match=words):
            found.read(index)


def test_classes_without_pictures_are_named(folder):
    found = read_picture_list(write(folder, "l.json", '{"classes": ["a", "b", "c"], "items": [["b.png", 1]]}'))
    with pytest.raises(ValueError, match="class 'a' and 1 more of 3 has no picture"):
        check_every_class(found)
    check_every_class(read_picture_list(write(folder, "l.txt", "b.png 0\n")))


def test_the_fingerprint_follows_names_and_labels_not_the_place(folder):
    first = fingerprint(read_picture_list(write(folder, "l.txt", "b.png 0\na 1.png 1\n")))
    assert first.startswith("2 pictures of 2 classes, checksum ")
    assert fingerprint(read_picture_list(write(folder, "l.txt", "b.png 1\na 1.png 0\n"))) != first
    assert fingerprint(read_picture_list(write(folder, "l.txt", "b.png 0\ndeep/c.png 1\n"))) != first
    assert fingerprint(read_picture_list(write(folder.parent, f"{folder.name}.txt", "b.png 0\na 1.png 1\n"))) == first


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("l.csv", "", "names no pictures"),
        ("l.csv", "path,label\n", "names no pictures"),
        ("l.csv", "b.png\n", "the first line has 1 columns, expected path, label"),
        ("l.csv", "path,size\nb.png,3\n", "the columns path, size; none is called label"),
        ("l.csv", "b.png,0\na 1.png\n", "line 2 has 1 columns, expected 2"),
        ("l.csv", "b.png,0\na 1.png,dog\n", r"some labels are numbers \('0' in line 1\) and some are not \('dog' in"),
        ("l.csv", "b.png,cat\na 1.png,\n", "line 2 has no label"),
        ("l.csv", "b.png,0,cat\na 1.png,0,dog\n", "line 2 calls class 0 'dog', a line before calls it 'cat'"),
        ("l.csv", 'b.png,"0\n', "is not CSV"),
        ("l.csv", "b.png,-1\n", "line 1 has the label -1, expected classes from 0"),
        ("l.csv", "b.png,20181225\n", "the label 20181225, expected classes from 0"),
        ("l.txt", "b.png\n", "line 1 is 'b.png', expected a path, a space and a label"),
        ("l.json", "{", "is not JSON"),
        ("l.json", "3", "holds no list of pictures"),
        ("l.json", "[]", "names no pictures"),
        ("l.json", '{"items": []}', '"classes" is'),
        ("l.json", '[{"path": "b.png"}]', "entry 0 is"),
        ("l.json", '[["b.png", true]]', "entry 0 is"),
        (
            "l.json",
            '{"classes": ["a", "b"], "items": [["b.png", 2]]}',
            "b.png has label 2, expected 0 to 1: there are 2",
        ),
    ],
)
def test_a_wrong_list_is_refused_with_the_line(folder, name, text, words):
    with pytest.raises(ValueError, match=words):
        read_picture_list(write(folder, name, text))


def test_what_is_no_text_is_refused(folder):
    (folder / "l.csv").write_bytes(b"\xff\xfe\x00b")
    with pytest.raises(ValueError, match="is not text in UTF-8"):
        read_picture_list(folder / "l.csv")
    (folder / "train.txt.zip").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match="cannot be read as a list"):
        read_picture_list(folder / "train.txt.zip")
    with pytest.raises(FileNotFoundError, match="there is no list"):
        read_picture_list(folder / "gone.csv")


def test_names_survive_whatever_their_bytes(folder):
    odd = "\udcff ünï.png"
    save_noise(folder / odd, 1)
    assert read_picture_list(write(folder, "l.json", json.dumps([[odd, 0]]))).read(0).picture.size == (20, 16)
