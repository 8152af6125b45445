"""A run over a folder with every kind of bad file in it goes on, names each, and stops where that is asked for."""

from __future__ import annotations

import io
import os
import struct
import zlib

import pytest
import torch

from internimage.data.formats import open_dataset
from internimage.data.image_folder import find_image_folder
from internimage.data.loaders import SkippedPictures, evaluation_batches, make_order, training_batches
from internimage.data.pictures import PictureError, decode
from internimage.data.training_transform import TrainingTransform
from internimage.data.transforms import Preprocessing
from tests.data.made_up import as_bytes, noise, save_noise

GOOD = 9


def png_of(width: int, height: int) -> bytes:
    """A PNG file that says it is so large, with next to nothing in it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


JPEG = as_bytes(noise(0, (64, 48)), "JPEG")
BAD = {
    "bomb.png": png_of(60_000, 60_000),
    "cut.jpg": JPEG[: len(JPEG) // 2],
    "cut.png": as_bytes(noise(0))[:300],
    "empty.jpg": b"",
    "html.jpg": b"<html>not found</html>",
    "short.png": png_of(300, 300),
    "zeros.jpg": bytes(5000),
}


@pytest.fixture
def folder(tmp_path):
    for number in range(GOOD):
        save_noise(tmp_path / f"class {number % 3}" / f"{number}.png", number)
    for number, (name, contents) in enumerate(BAD.items()):
        (tmp_path / f"class {number % 3}" / name).write_bytes(contents)
    os.symlink(tmp_path / "nowhere.png", tmp_path / "class 0" / "link.png")
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_training_goes_on_and_names_them(folder, workers):
    found, skipped = open_dataset(folder), SkippedPictures()
    assert len(found) == GOOD + len(BAD) + 1
    order = make_order(found, 5, seed=1)
    steps = 2 * order.steps_per_epoch
    batches = training_batches(found, order, TrainingTransform(32), last_step=steps, workers=workers, skipped=skipped)
    shapes = [images.shape for images, _ in batches]
    assert shapes == [(5, 3, 32, 32)] * steps
    named = " ".join(skipped.reasons)
    assert all(name in named for name in (*BAD, "link.png")) and skipped.count >= len(skipped)


def test_evaluation_leaves_them_out(folder):
    found, skipped = open_dataset(folder), SkippedPictures()
    batches = list(evaluation_batches(found, Preprocessing(image_size=32), batch_size=4, skipped=skipped))
    labels = torch.cat([batch.labels for batch in batches])
    assert int((labels >= 0).sum()) == GOOD and len(skipped) == skipped.count == len(BAD) + 1


def test_training_stops_at_the_first_where_that_is_asked_for(folder):
    found = open_dataset(folder)
    order = make_order(found, 17, seed=1)
    with pytest.raises(PictureError, match=r"^[^\n]+$"):  # one line, without the worker's traceback
        list(training_batches(found, order, TrainingTransform(32), last_step=1, workers=1, bad="raise"))


def test_a_folder_that_may_not_be_read_is_named(folder, monkeypatch):
    original = os.scandir

    def guarded(path):
        if str(path).endswith("class 1"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(PermissionError, match="class 1"):
        find_image_folder(folder)


def test_large_jpegs_may_be_decoded_at_a_part_of_their_size():
    stream = io.BytesIO(as_bytes(noise(0, (800, 640)), "JPEG"))
    sizes = [decode(stream, "x", at_least).size for at_least in (None, 641, 640, 320, 160, 10)]
    assert sizes == [(800, 640)] * 3 + [(400, 320), (200, 160), (100, 80)]
    assert decode(io.BytesIO(as_bytes(noise(0, (80, 64)))), "x", 8).size == (80, 64)  # a PNG


def test_a_reduced_data_set_leaves_the_first_as_it_was(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(as_bytes(noise(0, (400, 320)), "JPEG"))
    found = open_dataset(tmp_path)
    assert found.reduced(80).read(0).picture.size == (100, 80) and found.read(0).picture.size == (400, 320)
