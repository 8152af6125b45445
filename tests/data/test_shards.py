"""Tar shards: what is in them, the stream of a run, and what a damaged one does."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
import torch

from internimage.data import shard_stream
from internimage.data.loaders import SkippedPictures, evaluation_batches, training_batches
from internimage.data.order import Share
from internimage.data.pictures import PictureError
from internimage.data.shard_stream import ShardOrder
from internimage.data.shards import Shards, read_shards
from tests.data.made_up import as_bytes
from tests.data.test_loaders import equal, plain, shaken

pytest.importorskip("webdataset")
COUNTS = (19, 17, 18, 20, 18, 19)


def picture(number: int) -> bytes:
    from PIL import Image

    return as_bytes(Image.new("RGB", (4, 4), (number, 0, 0)))


def write_tar(path, files) -> None:
    with tarfile.open(path, "w") as archive:
        for name, contents in files:
            info = tarfile.TarInfo(name)
            info.size = len(contents)
            archive.addfile(info, io.BytesIO(contents))


def files_of(first: int, count: int, label=lambda number: str(number % 3)):
    for number in range(first, first + count):
        yield f"{number:04d}.png", picture(number)
        yield f"{number:04d}.cls", label(number).encode()


@pytest.fixture
def folder(tmp_path):
    first = 0
    for shard, count in enumerate(COUNTS):
        write_tar(tmp_path / f"{shard}.tar", files_of(first, count))
        first += count
    return tmp_path


def train(shards, first_step=0, last_step=None, share=Share(), batch_size=2, **how):  # noqa: B008
    order = ShardOrder(shards, batch_size, 3, share, lanes=3, buffer=6)
    last_step = 2 * order.steps_per_epoch if last_step is None else last_step
    how = {"workers": 0, "transform": shaken, **how}
    transform = how.pop("transform")
    return list(
        training_batches(shards, order, transform, first_step=first_step, last_step=last_step, share=share, **how)
    )


def reds(batches) -> list[int]:
    return [int(red) for images, _ in batches for red in images[:, 0, 0, 0].floor()]


def test_samples_are_counted_and_classes_found(folder):
    shards = read_shards(folder)
    assert shards.counts == COUNTS and len(shards) == 111 and shards.class_names == ("class 0", "class 1", "class 2")
    assert read_shards(f"{folder}/{{1..2}}.tar").counts == (17, 18)
    (folder / "classes.txt").write_text("ant\nbee\ncow\n")
    (folder / "sizes.json").write_text(json.dumps({f"{n}.tar": count for n, count in enumerate(COUNTS)}))
    (folder / "0.tar").write_bytes(b"not opened")
    assert read_shards(folder).class_names == ("ant", "bee", "cow") and read_shards(folder).counts == COUNTS
    assert read_shards(folder).fingerprint != shards.fingerprint


def test_labels_may_be_names_or_stand_in_json(tmp_path):
    ant, owl = [("a.x.png", picture(1)), ("a.cls", b" ant\n")], [("b.PNG", picture(2)), ("b.json", b'{"label": 1}')]
    write_tar(tmp_path / "0.tar", [*ant, *owl, ("c.png", picture(3)), ("c.cls", b"bee")])
    (tmp_path / "classes.txt").write_text("ant\nbee\n")
    batch = next(iter(evaluation_batches(read_shards(tmp_path), plain, batch_size=4)))
    assert batch.labels.tolist() == [0, 1, 1] and batch.inputs[:, 0, 0, 0].tolist() == [1, 2, 3]


def test_an_epoch_takes_samples_once_in_another_order_each_time(folder):
    shards = read_shards(folder)
    order = ShardOrder(shards, 2, 3, Share(), lanes=3, buffer=6)
    half = order.steps_per_epoch
    assert order.lanes == 3 and half == 51  # three lanes of two shards; the smallest two hold 35 samples
    batches = train(shards)
    first, second = reds(batches[:half]), reds(batches[half:])
    assert len(set(first)) == len(set(second)) == 102 and first != second
    assert first != sorted(first)
    assert [red % 3 for red in first + second] == torch.cat([labels for _, labels in batches]).tolist()


def test_batches_do_not_depend_on_the_number_of_workers_or_the_first_step(folder):
    shards, how = read_shards(folder), {"share": Share(1, 2, 2), "batch_size": 4}
    wanted = train(shards, last_step=6, **how)
    assert len(wanted) == 12
    for workers in (1, 2, 3):  # two do not divide three lanes
        assert equal(train(shards, last_step=6, workers=workers, **how), wanted)
    assert equal(train(shards, first_step=4, last_step=6, workers=2, **how), wanted[8:])


def test_processes_take_other_samples(folder):
    shards = read_shards(folder)
    order = ShardOrder(shards, 2, 3, Share(0, 2), lanes=3, buffer=6)
    taken = [set(reds(train(shards, share=Share(rank, 2), last_step=order.steps_per_epoch))) for rank in range(2)]
    assert not taken[0] & taken[1] and len(taken[0] | taken[1]) == 2 * order.steps_per_epoch


def test_a_later_start_opens_only_the_shards_it_needs(folder, monkeypatch):
    opened = []
    original = shard_stream.complete_shard
    monkeypatch.setattr(shard_stream, "complete_shard", lambda url, count: opened.append(url) or original(url, count))
    shards = read_shards(folder)
    order = ShardOrder(shards, 4, 3, Share(), lanes=1, buffer=2)
    last = order.steps_per_epoch
    list(training_batches(shards, order, shaken, first_step=last - 1, last_step=last))
    assert 1 <= len(opened) <= 2


def test_a_run_decodes_only_what_it_takes(folder, monkeypatch):
    decoded = []
    original = shard_stream.sample_of
    monkeypatch.setattr(shard_stream, "sample_of", lambda *a: decoded.append(a[0]["__key__"]) or original(*a))
    train(read_shards(folder), first_step=7, last_step=9)
    assert len(decoded) == 4


@pytest.mark.parametrize(("world_size", "workers"), [(1, 0), (2, 0), (5, 0), (8, 0), (1, 2), (2, 2)])
def test_evaluation_counts_each_sample_once(folder, world_size, workers):
    shards, counted, lengths = read_shards(folder), [], set()
    for rank in range(world_size):
        share = Share(rank, world_size)
        batches = evaluation_batches(shards, plain, batch_size=4, share=share, workers=workers)
        seen = list(batches)
        lengths.add(len(seen))
        assert len(seen) == len(batches)
        for inputs, labels, indices in seen:
            real = labels >= 0
            assert torch.equal(inputs[real, 0, 0, 0].long(), indices[real])
            assert torch.equal(labels[real], indices[real] % 3) and not inputs[~real].any()
            counted += indices[real].tolist()
    assert sorted(counted) == list(range(111)) and len(lengths) == 1


def test_evaluation_begins_at_any_batch(folder):
    shards = read_shards(folder)
    whole = list(evaluation_batches(shards, plain, batch_size=16))
    rest = evaluation_batches(shards, plain, batch_size=16, first_batch=4, workers=1)
    for _ in range(2):  # the workers stay
        assert [batch.indices.tolist() for batch in rest] == [batch.indices.tolist() for batch in whole[4:]]


def test_a_bad_picture_is_replaced_within_its_batch_and_named(folder):
    files = list(files_of(0, 19))
    files[4] = ("0002.png", b"no picture")
    write_tar(folder / "0.tar", files)
    skipped = SkippedPictures()
    batches = train(read_shards(folder), skipped=skipped)
    assert 2 not in reds(batches) and all(len(images) == 2 for images, _ in batches)
    assert skipped.count and all("0002.png: not a picture" in reason for reason in skipped.reasons)
    with pytest.raises(PictureError, match="0.tar: 0002.png: not a picture"):
        train(read_shards(folder), bad="raise", workers=1)
    lost = [b.indices[b.labels == -1].tolist() for b in evaluation_batches(read_shards(folder), plain, batch_size=111)]
    assert lost == [[-1]]


def test_a_shard_that_was_cut_off_costs_its_rest_only(folder):
    shards = read_shards(folder)
    whole = (folder / "3.tar").read_bytes()
    (folder / "3.tar").write_bytes(whole[: len(whole) // 2 - 700])
    (folder / "5.tar").unlink()
    skipped = SkippedPictures()
    batches = evaluation_batches(shards, plain, batch_size=10, skipped=skipped)
    seen = sorted(index for batch in batches for index in batch.indices.tolist() if index >= 0)
    assert set(range(54)) <= set(seen) and 54 < len(seen) < 92 and not set(range(92, 111)) & set(seen)
    assert any("3.tar: sample 19 cannot be read" in reason for reason in skipped.reasons)
    assert any("5.tar: sample 0 cannot be read" in reason for reason in skipped.reasons)


def test_batches_without_a_readable_picture_stop_the_run(folder):
    shards = read_shards(folder)
    for path in folder.glob("*.tar"):
        path.unlink()
    with pytest.raises(PictureError, match="none of 2 pictures in a row can be read, the last: .*No such file"):
        train(shards)


@pytest.mark.parametrize(
    ("label", "words"),
    [(lambda number: "7", "the label is 7, expected 0 to 2"), (lambda number: "owl", "the label 'owl' is no number")],
)
def test_a_wrong_label_stops_the_run(folder, label, words):
    shards = read_shards(folder)
    for shard, count in enumerate(COUNTS):
        write_tar(folder / f"{shard}.tar", files_of(0, count, label))
    with pytest.raises(ValueError, match=words):
        train(shards)


def test_what_cannot_be_is_refused(folder, tmp_path_factory):
    shards, empty = read_shards(folder), tmp_path_factory.mktemp("empty")
    with pytest.raises(ValueError, match="6 shards for 7 processes, expected one for each or more"):
        ShardOrder(shards, 7, 0, Share(0, 7))
    with pytest.raises(ValueError, match="111 samples in 6 shards do not fill a step of batch_size 128"):
        ShardOrder(shards, 128, 0, Share())
    with pytest.raises(ValueError, match="the order was made for Share"):
        order = ShardOrder(shards, 4, 0, Share(0, 2))
        training_batches(shards, order, shaken, last_step=1, share=Share(1, 2))
    with pytest.raises(ValueError, match="the shard a.tar holds no samples"):
        Shards(["a.tar"], [0], ["a"])
    with pytest.raises(FileNotFoundError, match="holds no shards"):
        read_shards(empty)
    with pytest.raises(FileNotFoundError, match="there is no shard .*9.tar"):
        read_shards(f"{folder}/{{5..9}}.tar".replace("{5..9}", "9"))
    with pytest.raises(ValueError, match="shards elsewhere are not gone through to count; put sizes.json"):
        read_shards("https://example.org/{0..3}.tar")
    write_tar(empty / "0.tar", [])
    with pytest.raises(ValueError, match="0.tar holds no samples"):
        read_shards(empty)
    (empty / "0.tar").write_bytes(b"no tar file at all")
    with pytest.raises(ValueError, match="the shard .*0.tar is damaged") as caught:
        read_shards(empty)
    assert "\n" not in str(caught.value)
    write_tar(empty / "0.tar", [("a.png", picture(0)), ("a.cls", b"owl")])
    with pytest.raises(ValueError, match="a has the label 'owl'; for names instead of numbers put classes.txt"):
        read_shards(empty)
    (empty / "sizes.json").write_text('{"1.tar": 3}')
    with pytest.raises(ValueError, match="sizes.json does not say how many samples are in 0.tar"):
        read_shards(empty)
    (empty / "sizes.json").write_text("[")
    with pytest.raises(ValueError, match="sizes.json is not what it should be"):
        read_shards(empty)
