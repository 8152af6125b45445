"""Pictures in a zip archive, with a map or with class folders inside; caches of encoded pictures."""

from __future__ import annotations

import pickle
import tracemalloc
import zipfile

import pytest
import torch

from internimage.data import memory_cache
from internimage.data.dataset import Subset
from internimage.data.loaders import training_batches
from internimage.data.memory_cache import cache_pictures
from internimage.data.order import EpochOrder, Share
from internimage.data.pictures import PictureError, read_picture
from internimage.data.synthetic import synthetic_pictures
from internimage.data.zip_map import read_zip
from tests.data.made_up import as_bytes, noise

NAMES = ("n1/a.png", "n1/b.png", "n2/c.png", "n2/d.png")


def write_zip(path, names=NAMES, method=zipfile.ZIP_STORED, prefix=""):
    with zipfile.ZipFile(path, "w", method) as archive:
        for number, name in enumerate(names):
            archive.writestr(prefix + name, as_bytes(noise(number)))
    return path


def check(found, labels=(0, 0, 1, 1), class_names=("n1", "n2")):
    assert found.labels.tolist() == list(labels) and found.class_names == class_names
    for index in range(len(found)):
        assert found.read(index).picture.tobytes() == noise(index).tobytes()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("prefix", ["", "train/"])
def test_folders_inside_are_classes(tmp_path, method, prefix):
    found = read_zip(write_zip(tmp_path / "train.zip", method=method, prefix=prefix))
    check(found)
    check(pickle.loads(pickle.dumps(found)))


@pytest.mark.parametrize("place", ["train_map.txt", "train.txt", "meta_data/train.txt"])
@pytest.mark.parametrize("prefix", ["", "train/"])
def test_a_map_beside_the_archive_gives_the_labels(tmp_path, place, prefix):
    write_zip(tmp_path / "train.zip", prefix=prefix)
    (tmp_path / "meta_data").mkdir()
    (tmp_path / place).write_text(
        "".join(f"{name}\t{label}\n" for name, label in zip(NAMES, (2, 0, 1, 1), strict=True))
    )
    check(read_zip(tmp_path / "train.zip"), (2, 0, 1, 1), ("class 0", "class 1", "class 2"))


def test_a_picture_in_an_archive_is_read_by_its_name(tmp_path):
    found = read_zip(write_zip(tmp_path / "train.zip", method=zipfile.ZIP_DEFLATED))
    assert found.name(2) == f"{tmp_path}/train.zip@n2/c.png"
    assert read_picture(found.name(2)).tobytes() == noise(2).tobytes()
    with pytest.raises(PictureError, match="train.zip@n3/c.png: there is no such picture in the archive"):
        read_picture(f"{tmp_path}/train.zip@n3/c.png")
    with pytest.raises(PictureError, match="gone.zip@a.png: No such file"):
        read_picture(f"{tmp_path}/gone.zip@a.png")
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    with pytest.raises(PictureError, match="bad.zip@a.png: the archive is damaged"):
        read_picture(f"{tmp_path}/bad.zip@a.png")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damage_inside_an_archive_is_named_and_does_not_touch_other_pictures(tmp_path, method):
    found = read_zip(write_zip(tmp_path / "train.zip", method=method))
    contents = bytearray((tmp_path / "train.zip").read_bytes())
    start = int(found.entries[1, 0])
    contents[start + 60 : start + 200] = bytes(140)
    (tmp_path / "train.zip").write_bytes(contents)
    with pytest.raises(PictureError, match="train.zip@n1/b.png: "):
        found.read(1)
    assert found.read(2).picture.tobytes() == noise(2).tobytes()


def test_what_unpacks_to_more_than_is_stated_is_damaged_and_not_unpacked(tmp_path):
    path = tmp_path / "train.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("n1/a.png", bytes(64 * 2**20))
    found = read_zip(path)
    found.entries[0, 2] = 1000  # what the archive says of its size
    tracemalloc.start()
    with pytest.raises(PictureError, match="train.zip@n1/a.png: the archive is damaged here"):
        found.read(0)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_what_is_no_archive_or_does_not_fit_its_map_is_refused(tmp_path):
    path = write_zip(tmp_path / "train.zip")
    (tmp_path / "map.txt").write_text("n1/a.png\t0\nn1/gone.png\t1\nn9/x.png\t1\n")
    with pytest.raises(
        ValueError, match="2 of 3 pictures are not in .*train.zip, the first is 'n1/gone.png' in line 2"
    ):
        read_zip(path, tmp_path / "map.txt")
    (tmp_path / "map.txt").write_text("")
    with pytest.raises(ValueError, match="map.txt names no pictures"):
        read_zip(path, tmp_path / "map.txt")
    with pytest.raises(FileNotFoundError, match="there is no map"):
        read_zip(path, tmp_path / "gone.txt")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_zip(tmp_path / "gone.zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is no zip archive, or a damaged one"):
        read_zip(path)
    with pytest.raises(ValueError, match="pictures without a folder, such as a.png, expected a folder a class"):
        read_zip(write_zip(path, ("a.png",)))
    with pytest.raises(ValueError, match="holds no pictures"):
        read_zip(write_zip(path, ("n1/a.txt",)))
    with pytest.raises(ValueError, match="is encrypted or packed in a way that is not read"):
        read_zip(write_zip(path, method=zipfile.ZIP_LZMA))


def count_reads(found, monkeypatch):
    reads = []
    original = type(found).read_bytes

    def counted(self, index):
        reads.append(index)
        return original(self, index)

    monkeypatch.setattr(type(found), "read_bytes", counted)
    return reads


@pytest.mark.parametrize(("mode", "kept"), [("full", [0, 1, 2, 3]), ("part", [1, 3])])
def test_caches_read_their_pictures_once(tmp_path, monkeypatch, mode, kept):
    found = read_zip(write_zip(tmp_path / "train.zip"))
    reads, counts = count_reads(found, monkeypatch), []
    cached = cache_pictures(found, mode, share=Share(1, 2), progress=lambda done, total: counts.append((done, total)))
    assert sorted(reads) == kept and cached.cached == len(kept) and counts[-1] == (len(kept), len(kept))
    reads.clear()
    check(cached)
    check(pickle.loads(pickle.dumps(cached)))
    assert sorted(set(reads)) == sorted(set(range(4)) - set(kept))
    assert cache_pictures(found, "no") is found


def test_a_part_of_a_data_set_is_cached_alone(tmp_path, monkeypatch):
    part = Subset(read_zip(write_zip(tmp_path / "train.zip")), torch.tensor([3, 0, 2]))
    reads = count_reads(part.dataset, monkeypatch)
    cached = cache_pictures(part, "part", share=Share(0, 2))
    assert sorted(reads) == [2, 3] and cached.dataset.cached == 2
    assert [cached.read(i).picture.tobytes() for i in range(3)] == [noise(n).tobytes() for n in (3, 0, 2)]
    assert reads[2:] == [0]
    with pytest.raises(ValueError, match="goes with pictures that lie in files"):
        cache_pictures(synthetic_pictures(), "full")


def test_each_process_keeps_its_own_part_in_memory_and_reads_nothing_else(tmp_path, monkeypatch):
    names = [f"n{number % 2}/{number}.png" for number in range(12)]
    found = read_zip(write_zip(tmp_path / "train.zip", names))
    monkeypatch.setattr(memory_cache, "_BLOCK", 3000)
    order = EpochOrder(12, 4, seed=1, parts=2)
    seen = []
    for rank in range(2):
        share = Share(rank, 2)
        cached = cache_pictures(found, "memory", order, share)
        assert cached.cached == 6 and len(cached.blocks) > 1
        with monkeypatch.context() as patch:
            reads = count_reads(found, patch)
            batches = training_batches(cached, order, lambda picture: torch.zeros(1), last_step=6, share=share)
            assert len([labels for _, labels in batches]) == 6 and not reads
        seen.append(set(order.part(rank).tolist()))
    assert seen[0] | seen[1] == set(range(12))


def test_a_damaged_picture_is_named_by_a_cache_as_well(tmp_path):
    found = read_zip(write_zip(tmp_path / "train.zip"))
    found.entries[1, 4] += 1  # another checksum
    cached = cache_pictures(found, "full")
    assert cached.cached == 3
    with pytest.raises(PictureError, match="n1/b.png: the archive is damaged here"):
        cached.read(1)


def test_caches_that_cannot_be_are_refused(tmp_path, monkeypatch):
    found = read_zip(write_zip(tmp_path / "train.zip"))
    with pytest.raises(ValueError, match="cache is 'all', expected one of no, part, full, memory"):
        cache_pictures(found, "all")
    with pytest.raises(ValueError, match="needs the order of these pictures, with as many parts as processes"):
        cache_pictures(found, "memory", EpochOrder(4, 2, 0), Share(0, 2))
    monkeypatch.setattr(memory_cache, "_free_memory", lambda: 1000)
    with pytest.raises(ValueError, match="4 pictures take about .* GiB and .* GiB are free"):
        cache_pictures(found, "full")
