"""Pictures inside a zip archive: ``train.zip`` with ``train_map.txt``, or with a folder a class inside."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .image_folder import is_picture_name
from .picture_list import lines_table, number_classes
from .pictures import PictureError
from .stored import StoredPictures

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, ..., lengths of name and extra field
_ENCRYPTED = 0x1


class ZipPictures(StoredPictures):
    """Pictures in one archive. Where each begins is looked up once; workers need no table of contents of their own."""

    def __init__(
        self, archive: Path, names: Sequence[str], labels: Sequence[int], class_names: Sequence[str], entries: Tensor
    ) -> None:
        super().__init__(names, labels, class_names, place=archive)
        self.archive, self.entries = archive, entries

    def name(self, index: int) -> str:
        """``train.zip@inner/name``, which ``read_picture`` takes as well."""
        return f"{self.archive}@{self.names[index]}"

    def read_bytes(self, index: int) -> bytes:
        """The file of one picture.

        Raises:
            PictureError: the archive is damaged there.
        """
        start, size, full_size, method, checksum = self.entries[index].tolist()
        try:
            with open(self.archive, "rb") as file:  # a file of its own, so that processes do not move each other's
                file.seek(start)
                header = file.read(_LOCAL_HEADER.size)
                signature, name_length, extra_length = _LOCAL_HEADER.unpack(header)
                file.seek(name_length + extra_length, io.SEEK_CUR)
                stored = file.read(size)
            contents = _unpacked(stored, full_size) if method else stored
        except (OSError, struct.error, zlib.error) as error:
            raise PictureError(f"{self.name(index)}: {getattr(error, 'strerror', None) or error}") from error
        if signature != b"PK\x03\x04" or len(contents) != full_size or zlib.crc32(contents) != checksum:
            raise PictureError(f"{self.name(index)}: the archive is damaged here")
        return contents


def _unpacked(stored: bytes, full_size: int) -> bytes:
    """At most a byte more than is stated: a few bytes can be packed to become gigabytes."""
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(stored, full_size + 1)


def find_map(archive: Path) -> Path | None:
    """The map of ``train.zip``: ``train_map.txt`` or ``train.txt`` beside it or in ``meta_data``; None without one."""
    places = (archive.parent, archive.parent / "meta_data")
    paths = (place / f"{archive.stem}{ending}" for place in places for ending in ("_map.txt", ".txt"))
    return next((path for path in paths if path.is_file()), None)


def read_zip(
    archive: str | Path, map_file: str | Path | None = None, class_names: Sequence[str] | None = None
) -> ZipPictures:
    """List the pictures of an archive; none is decoded.

    Args:
        map_file: lines of "path<TAB>label" for the entries; :func:`find_map` unless given. Without one, the folder
            that an entry lies in is its class.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no zip archive, is damaged, or the map names what is not in it.
    """
    archive = Path(archive)
    inside = _contents(archive)
    path = Path(map_file) if map_file is not None else find_map(archive)
    if path is None:
        names, labels, classes = _by_folder(archive, inside)
    elif path.is_file():
        names, labels, classes = _by_map(archive, inside, path, class_names)
    else:
        raise FileNotFoundError(f"there is no map {path}")
    return ZipPictures(archive, names, labels, classes, torch.tensor([_entry(archive, inside[name]) for name in names]))


def _contents(archive: Path) -> dict[str, zipfile.ZipInfo]:
    if not archive.is_file():
        raise FileNotFoundError(f"there is no file {archive}")
    try:
        with zipfile.ZipFile(archive) as opened:
            return {info.filename: info for info in opened.infolist() if not info.is_dir()}
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ValueError(f"{archive} is no zip archive, or a damaged one: {error}") from error


def _entry(archive: Path, info: zipfile.ZipInfo) -> tuple[int, int, int, int, int]:
    if info.flag_bits & _ENCRYPTED or info.compress_type not in _METHODS:
        raise ValueError(f"{archive}@{info.filename} is encrypted or packed in a way that is not read; pack it anew")
    return info.header_offset, info.compress_size, info.file_size, info.compress_type, info.CRC


def _by_map(
    archive: Path, inside: dict[str, zipfile.ZipInfo], path: Path, class_names: Sequence[str] | None
) -> tuple[list[str], list[int], tuple[str, ...]]:
    """Names in the archive, labels and classes, as the map has them."""
    table = lines_table(path)
    found = [next((n for n in _spellings(name, archive.stem) if n in inside), None) for name in table.names]
    missing = [index for index, name in enumerate(found) if name is None]
    if missing:
        raise ValueError(
            f"{path}: {len(missing):,} of {len(found):,} pictures are not in {archive}, the first is "
            f"{table.names[missing[0]]!r} in {table.where(missing[0])}"
        )
    if not found:
        raise ValueError(f"{path} names no pictures")
    numbers, classes = number_classes(path, table, class_names)
    return found, numbers, classes  # type: ignore[return-value]


def _spellings(name: str, stem: str) -> tuple[str, ...]:
    name = name.removeprefix("./")
    return name, f"{stem}/{name}"


def _by_folder(archive: Path, inside: dict[str, zipfile.ZipInfo]) -> tuple[list[str], list[int], tuple[str, ...]]:
    names = sorted(name for name in inside if is_picture_name(name.rpartition("/")[2]))
    folders = [name.rpartition("/")[0] for name in names]
    if not names or not all(folders):
        what = "no pictures" if not names else f"pictures without a folder, such as {names[folders.index('')]}"
        raise ValueError(
            f"{archive} holds {what}, expected a folder a class in it, or a map {archive.stem}_map.txt beside it with "
            "lines of path and label"
        )
    classes = sorted(set(folders))
    number_of = {folder: number for number, folder in enumerate(classes)}
    return names, [number_of[folder] for folder in folders], tuple(folder.rpartition("/")[2] for folder in classes)
