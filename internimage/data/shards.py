"""Tar shards of the WebDataset format: for data that no disk of one machine holds. A stream, not a list."""

from __future__ import annotations

import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Any

from . import labels as imagenet
from .dataset import Sample
from .pictures import SUFFIXES, PictureError, decode

LABEL_KEYS = ("cls", "label", "class", "json")
SIZES_FILE = "sizes.json"
CLASSES_FILES = ("classes.txt", "class_names.txt", "classnames.txt")
_META = r"__[^/]*__($|/)"  # what WebDataset leaves out
_EXTENSIONS = (".tar", ".tar.gz", ".tgz")


class Shards:
    """Tar files with a picture and its class under one name: ``0001.jpg``, ``0001.cls``; nothing is read yet.

    Attributes:
        urls: paths, or what ``webdataset`` opens: http(s), ``pipe:command``.
        counts: samples in each.
        class_names: what labels are called.
    """

    def __init__(self, urls: Sequence[str], counts: Sequence[int], class_names: Sequence[str]) -> None:
        self.urls, self.counts, self.class_names = tuple(urls), tuple(counts), tuple(class_names)
        if not self.urls or len(self.urls) != len(self.counts):
            raise ValueError(f"there are {len(self.urls)} shards and {len(self.counts)} counts, expected one for each")
        for url, count in zip(self.urls, self.counts, strict=True):
            if count < 1:
                raise ValueError(f"the shard {url} holds no samples; leave it out")

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def fingerprint(self) -> str:
        """Tells these shards from others: their names, counts and classes."""
        names = [Path(url).name for url in self.urls]
        checksum = zlib.crc32(json.dumps([names, self.counts, self.class_names]).encode())
        return f"{len(self):,} pictures of {len(self.class_names)} classes in shards, checksum {checksum:08x}"


def complete_shard(url: str, count: int) -> Iterator[Any]:
    """As many samples as were counted: what a damaged shard lacks is made up for by the error that says so."""
    number, reason = 0, f"it ends after fewer samples than the {count:,} that were counted"
    try:
        for sample in _samples(url):
            yield sample
            number += 1
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError) as error:
        reason = str(error) or type(error).__name__
    for missing in range(number, count):
        yield PictureError(f"{url}: sample {missing} cannot be read: {reason}")


def _samples(url: str) -> Iterator[dict[str, Any]]:
    """The samples of one shard."""
    _require_webdataset()
    from webdataset.gopen import gopen
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    with gopen(url) as stream:
        files = ({**file, "__url__": url} for file in tar_file_iterator(stream))
        yield from group_by_keys(files)


def sample_of(contents: Any, class_names: tuple[str, ...]) -> Sample:
    """A picture and its label from the parts of a sample.

    Raises:
        PictureError: there is no picture, or it cannot be read.
        ValueError: there is no label, or it is out of range.
    """
    if isinstance(contents, PictureError):
        raise contents
    name = f"{contents['__url__']}: {contents['__key__']}"
    key = next((key for key in contents if f".{key.rpartition('.')[2]}" in SUFFIXES), None)
    if key is None:
        raise PictureError(f"{name}: no picture among {', '.join(k for k in contents if not k.startswith('__'))}")
    label = _label(contents, name, class_names)
    return Sample(decode(io.BytesIO(contents[key]), f"{name}.{key}"), label)


def _label(contents: dict[str, Any], name: str, class_names: tuple[str, ...]) -> int:
    stated = stated_label(contents)
    if stated is None:
        raise ValueError(f"{name}: no label, expected one of .{', .'.join(LABEL_KEYS)} beside the picture")
    try:
        label = int(stated)
    except ValueError:
        if stated not in class_names:
            raise ValueError(f"{name}: the label {stated!r} is no number and none of the class names") from None
        return class_names.index(stated)
    if not 0 <= label < len(class_names):
        raise ValueError(f"{name}: the label is {label}, expected 0 to {len(class_names) - 1}")
    return label


def stated_label(contents: dict[str, Any]) -> str | None:
    """What a sample says its class is; None where it does not."""
    for key in LABEL_KEYS:
        if key not in contents:
            continue
        text = contents[key].decode("utf-8", "replace").strip()
        if key != "json":
            return text
        try:
            fields = json.loads(text)
        except ValueError:
            continue
        for field in ("label", "cls", "class", "class_id"):
            if isinstance(fields, dict) and isinstance(fields.get(field), (int, str)):
                return str(fields[field])
    return None


def read_shards(
    source: str | Path, counts: Sequence[int] | None = None, class_names: Sequence[str] | None = None
) -> Shards:
    """The shards that a text stands for: a folder of ``.tar``, one of them, or a pattern with braces or stars.

    Args:
        counts: samples in each shard. Unless given, ``sizes.json`` beside the shards says so, as {"a.tar": 1000, ...};
            else shards on this machine are gone through once.
        class_names: unless given, the lines of ``classes.txt`` beside the shards; else by the labels that were seen.

    Raises:
        FileNotFoundError: there are no such shards.
        ValueError: a shard is damaged or empty, or counts or classes of shards elsewhere are not known.
        ImportError: the ``webdataset`` package is not there.
    """
    _require_webdataset()
    urls = expand(str(source))
    folder = Path(urls[0]).parent
    if counts is None:
        counts = _stated_counts(urls, folder / SIZES_FILE)
    if class_names is None:
        class_names = next((_lines(folder / name) for name in CLASSES_FILES if (folder / name).is_file()), None)
    if counts is None or class_names is None:
        if not all(Path(url).is_file() for url in urls):
            raise ValueError(
                f"{source}: shards elsewhere are not gone through to count; put {SIZES_FILE} and {CLASSES_FILES[0]} "
                "into a folder here and name the shards in it, or pass counts and class_names"
            )
        scanned = [scan(url, labels=class_names is None) for url in urls]
        counts = counts or [count for count, _ in scanned]
        class_names = class_names or imagenet.class_names(max(label for _, label in scanned) + 1)
    return Shards(urls, counts, class_names)


def expand(source: str) -> list[str]:
    """The shards that a text stands for; FileNotFoundError where there are none."""
    from webdataset.shardlists import expand_urls

    if Path(source).is_dir():
        found = sorted(str(path) for path in Path(source).iterdir() if path.name.endswith(_EXTENSIONS))
        if not found:
            raise FileNotFoundError(f"the folder {source} holds no shards ({', '.join(_EXTENSIONS)})")
        return found
    found = [
        path for url in expand_urls(source) for path in (sorted(glob(url)) if "*" in url and ":" not in url else [url])
    ]
    missing = [url for url in found if ":" not in url and not Path(url).is_file()]
    if not found or missing:
        raise FileNotFoundError(f"there is no shard {missing[0] if missing else source}")
    return found


def scan(path: str, labels: bool = True) -> tuple[int, int]:
    """How many samples a shard on this machine holds, and its highest label, -1 unless ``labels`` are looked at.

    Raises:
        ValueError: it is damaged, or a label is not a number.
    """
    from webdataset.tariterators import base_plus_ext

    count, highest, last = 0, -1, None
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                key, extension = base_plus_ext(member.name)
                if not member.isreg() or key is None or re.match(_META, member.name):
                    continue
                count, last = count + (key != last), key
                if labels and extension.lower() in LABEL_KEYS:
                    contents = archive.extractfile(member)
                    assert contents is not None
                    highest = max(highest, _as_number(path, key, {extension.lower(): contents.read()}))
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"the shard {path} is damaged: {str(error).splitlines()[0].rstrip(':')}") from error
    return count, highest


def _as_number(path: str, key: str, contents: dict[str, Any]) -> int:
    stated = stated_label(contents)
    try:
        return -1 if stated is None else int(stated)
    except ValueError:
        raise ValueError(
            f"{path}: {key} has the label {stated!r}; for names instead of numbers put {CLASSES_FILES[0]} beside the "
            "shards, a class a line"
        ) from None


def _stated_counts(urls: list[str], path: Path) -> list[int] | None:
    if not path.is_file():
        return None
    try:
        sizes = json.loads(path.read_text())
        return [int(sizes[Path(url).name]) for url in urls]
    except KeyError as error:
        raise ValueError(f"{path} does not say how many samples are in {error.args[0]}") from error
    except (ValueError, TypeError, OSError) as error:
        raise ValueError(f'{path} is not what it should be, {{"a.tar": 1000, ...}}: {error}') from error


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _require_webdataset() -> None:
    try:
        import webdataset  # noqa: F401
    except ImportError as error:
        raise ImportError("tar shards are read by webdataset: pip install 'internimage-torch[data]'") from error
