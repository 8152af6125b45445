"""Fashion-MNIST: the files are read wherever they usually lie, and damaged ones are refused."""

from __future__ import annotations

import gzip
import struct

import pytest
import torch

from internimage.data.fashion_mnist import CLASS_NAMES, find_folder, load_fashion_mnist, read_idx


def idx(values: torch.Tensor) -> bytes:
    """The bytes of an IDX file, written here in plain words."""
    shape = b"".join(struct.pack(">I", size) for size in values.shape)
    return bytes([0, 0, 8, values.dim()]) + shape + bytes(values.flatten().tolist())


def write_all(folder, zipped: bool, count: int = 7):
    """The four files with made-up contents; returns the training pictures and labels."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count, dtype=torch.uint8) % 10
    for prefix, part in (("train", slice(None)), ("t10k", slice(2))):
        for name, values in (("images-idx3-ubyte", images[part]), ("labels-idx1-ubyte", labels[part])):
            path = folder / f"{prefix}-{name}{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(idx(values)) if zipped else idx(values))
    return images, labels


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("below", ["", "FashionMNIST/raw", "raw"])
def test_reads_every_layout(tmp_path, zipped, below):
    images, labels = write_all(tmp_path / below, zipped)
    data = load_fashion_mnist("train", tmp_path)
    assert torch.equal(data.images, images[:, None]) and torch.equal(data.labels, labels.long())
    assert data.class_names == CLASS_NAMES and len(CLASS_NAMES) == 10
    assert len(load_fashion_mnist("test", tmp_path)) == 2


def test_missing_files_are_named_with_what_to_do(tmp_path):
    write_all(tmp_path, zipped=False)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"apt install dataset-fashion-mnist.*--download"):
        find_folder(tmp_path)


def test_unknown_split(tmp_path):
    with pytest.raises(ValueError, match="split is 'val', expected 'train' or 'test'"):
        load_fashion_mnist("val", tmp_path)


def test_pictures_and_labels_that_do_not_fit(tmp_path):
    write_all(tmp_path, zipped=False)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(torch.zeros(3, dtype=torch.uint8)))
    with pytest.raises(ValueError, match=r"pictures \(7, 28, 28\) and labels \(3,\)"):
        load_fashion_mnist("train", tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(torch.full((7,), 10, dtype=torch.uint8)))
    with pytest.raises(ValueError, match="labels 0 to 9"):
        load_fashion_mnist("train", tmp_path)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "not an IDX file"),
        (b"hello, this is text", "not an IDX file"),
        (bytes([0, 0, 13, 1, 0, 0, 0, 1, 0]), "not an IDX file of bytes"),
        (bytes([0, 0, 8, 3, 0, 0]), "not an IDX file"),
        (idx(torch.zeros(2, 3, dtype=torch.uint8))[:-1], "cut off or damaged"),
        (bytes([0, 0, 8, 1]) + struct.pack(">I", 2**32 - 1), "cut off or damaged"),
    ],
)
def test_damaged_files(tmp_path, contents, message):
    path = tmp_path / "file"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=message):
        read_idx(path)


ZIPPED = gzip.compress(bytes(1000), mtime=0)


# names, since workers that collect tests at another second must find the same ones
@pytest.mark.parametrize(
    "contents", [b"no gzip at all", ZIPPED[:20], ZIPPED[:-9]], ids=["none", "cut early", "cut late"]
)
def test_damaged_gzip(tmp_path, contents):
    path = tmp_path / "file.gz"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match="damaged"):
        read_idx(path)
