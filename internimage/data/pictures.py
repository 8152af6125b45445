"""Pictures from files, folders, addresses, standard input and arrays; whatever cannot be read is a PictureError."""

from __future__ import annotations

import io
import sys
import time
import urllib.error
import urllib.request
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from .._version import __version__

STANDARD_INPUT = "-"
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm .pnm .avif .jp2 .heic .heif .tga .ico".split()
)
# PostScript and the like are left out: reading them would start another program
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA", "ICO")
MAX_PIXELS = 178_956_970  # where Pillow, too, stops believing that a picture is meant well; half a gigabyte as RGB
MAX_BYTES = 64 * 2**20  # of a picture that comes through a connection
TIMEOUT_SECONDS = 20.0


class PictureError(ValueError):
    """A picture cannot be read; the message names it and says why."""


def find_pictures(arguments: Iterable[str]) -> list[str]:
    """The pictures that arguments of a command stand for, in order.

    A folder gives :func:`pictures_below` it. Files, addresses, "-", and folders without pictures stand for themselves
    and are not opened here.
    """
    found: list[str] = []
    for argument in arguments:
        folder = Path(argument)
        if argument == STANDARD_INPUT or is_address(argument) or not folder.is_dir():
            found.append(argument)
            continue
        found += pictures_below(folder) or [argument]
    return found


def pictures_below(folder: Path) -> list[str]:
    """The files in and below a folder that end like a picture, sorted by path, hidden ones left out."""
    return [str(path) for path in sorted(folder.rglob("*")) if _looks_like_picture(path, folder)]


def _looks_like_picture(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in SUFFIXES and not hidden and path.is_file()


def is_address(source: str) -> bool:
    """Whether the text is an http or https address."""
    return source.lower().startswith(("http://", "https://"))


def read_picture(source: str | Path, *, timeout: float = TIMEOUT_SECONDS, max_bytes: int = MAX_BYTES) -> Image.Image:
    """A picture, decoded and turned upright as its EXIF data says; the first frame where there are several.

    Args:
        source: a path, ``archive.zip@inner/name``, an http(s) address, or "-" for standard input.
        timeout: seconds that an address may take, all in all.
        max_bytes: of a picture that comes from an address or standard input.

    Raises:
        PictureError: no such file, not a picture, broken, over ``MAX_PIXELS``, or not there in time.
    """
    name = str(source)
    if name == STANDARD_INPUT:
        return decode(io.BytesIO(_from_standard_input(max_bytes)), "standard input")
    if is_address(name):
        return decode(io.BytesIO(_fetch(name, timeout, max_bytes)), name)
    try:
        if Path(name).is_dir():
            if pictures_below(Path(name)):
                raise PictureError(f"{name}: a folder, expected one picture")
            raise PictureError(f"{name}: the folder holds no pictures ({', '.join(sorted(SUFFIXES))})")
        if (inside := _split_archive(name)) is not None:
            return decode(io.BytesIO(_from_archive(*inside)), name)
        with open(name, "rb") as file:
            return decode(file, name)
    except PictureError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise PictureError(f"{name}: {getattr(error, 'strerror', None) or error}") from error


def decode(file: IO[bytes], name: str, at_least: int | None = None) -> Image.Image:
    """The picture in an open file.

    Args:
        name: for the message of the PictureError.
        at_least: a JPEG may be decoded at a half, a quarter or an eighth of its size, which takes less time, as long as
            its shorter side keeps so many pixels; None decodes it whole.
    """
    Image.init()
    formats = [known for known in FORMATS if known in Image.OPEN]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on damaged EXIF data, and on sizes checked below
            picture = Image.open(file, formats=formats)
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise PictureError(f"{name}: {width} x {height} pixels are more than the {MAX_PIXELS:,} that are read")
            if at_least is not None:
                picture.draft(None, (at_least, at_least))  # of no effect on other formats
            return check_picture(ImageOps.exif_transpose(picture), name)
    except PictureError:
        raise
    except Image.UnidentifiedImageError as error:
        if file.seek(0, io.SEEK_END) == 0:
            raise PictureError(f"{name}: empty, not a byte in it") from error
        raise PictureError(f"{name}: not a picture in a format that is read ({', '.join(formats)})") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"{name}: more than the {MAX_PIXELS:,} pixels that are read") from error
    except Exception as error:  # decoders raise whatever they trip over: SyntaxError, struct.error, IndexError, ...
        raise PictureError(f"{name}: broken picture ({error or type(error).__name__})") from error


def check_picture(picture: Image.Image, name: str) -> Image.Image:
    """The picture itself; a PictureError where it has no pixels, or floats that are NaN or infinite."""
    if 0 in picture.size:
        raise PictureError(f"{name}: {picture.width} x {picture.height} pixels, expected at least one")
    if picture.mode == "F" and not np.isfinite(np.asarray(picture)).all():
        raise PictureError(f"{name}: some of its values are NaN or infinite; replace them, as numpy.nan_to_num does")
    return picture


def _split_archive(name: str) -> tuple[str, str] | None:
    """``train.zip@a/b.jpg`` as archive and name inside; None for other names, and for a file that is called so."""
    archive, mark, inner = name.partition(".zip@")
    return (f"{archive}.zip", inner) if mark and not Path(name).exists() else None


def _from_archive(archive: str, inner: str) -> bytes:
    try:
        with zipfile.ZipFile(archive) as opened:
            return opened.read(inner)
    except KeyError as error:
        raise PictureError(f"{archive}@{inner}: there is no such picture in the archive") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise PictureError(f"{archive}@{inner}: the archive is damaged or encrypted: {error}") from error


def _from_standard_input(max_bytes: int) -> bytes:
    contents = b"" if sys.stdin is None else _read_limited(sys.stdin.buffer, max_bytes, "standard input")
    if not contents:
        raise PictureError("standard input: nothing came; pipe one picture in, and name - once")
    return contents


def _fetch(address: str, timeout: float, max_bytes: int) -> bytes:
    try:
        request = urllib.request.Request(address, headers={"User-Agent": f"internimage/{__version__}"})
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return _read_limited(response, max_bytes, address, deadline=time.monotonic() + timeout)
    except PictureError:
        raise
    except TimeoutError as error:
        raise PictureError(f"{address}: no answer within {timeout:g} s") from error
    except urllib.error.HTTPError as error:
        error.close()
        raise PictureError(f"{address}: the server answers {error.code} {error.reason}") from error
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "reason", error)
        text = f"no answer within {timeout:g} s" if isinstance(reason, TimeoutError) else reason
        raise PictureError(f"{address}: {text}") from error
    except Exception as error:  # http.client: a server that breaks off or talks nonsense
        raise PictureError(f"{address}: {error or type(error).__name__}") from error


def _read_limited(stream: Any, max_bytes: int, name: str, deadline: float = float("inf")) -> bytes:
    """All bytes of a stream; an error once there are too many or they take too long."""
    read_some = getattr(stream, "read1", stream.read)
    chunks: list[bytes] = []
    total = 0
    while chunk := read_some(2**16):
        chunks.append(chunk)
        total += len(chunk)
        if total > max_bytes:
            raise PictureError(f"{name}: over {max_bytes / 2**20:.3g} MiB")
        if time.monotonic() > deadline:
            raise PictureError(f"{name}: not complete in time")
    return b"".join(chunks)


def from_array(array: np.ndarray | Tensor) -> Image.Image:
    """A picture from numbers.

    Args:
        array: numpy (H, W) or (H, W, C), or a torch tensor (H, W) or (C, H, W), with C of 1, 3 or 4 (RGB, and alpha);
            uint8, or floats from 0 to 1, which are rounded to 8 bits.

    Raises:
        ValueError: another shape, dtype or range.
    """
    shape, layout = tuple(array.shape), "(H, W) or (H, W, C)"
    if isinstance(array, Tensor):
        array, layout = _channels_last(array), "(H, W) or (C, H, W)"
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise ValueError(f"image has shape {shape}, expected {layout} with C of 1, 3 or 4 and no empty axis")
    if array.dtype != np.uint8:
        array = _rounded(array)
    return Image.fromarray(np.ascontiguousarray(array))


def _channels_last(tensor: Tensor) -> np.ndarray:
    if tensor.is_meta:
        raise ValueError("image is a tensor on the meta device, expected one with values")
    tensor = tensor.detach().cpu()
    tensor = tensor.float() if tensor.is_floating_point() else tensor  # numpy has no bfloat16
    return (tensor.permute(1, 2, 0) if tensor.dim() == 3 else tensor).numpy()


def _rounded(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind != "f":
        raise ValueError(f"image has dtype {array.dtype}, expected uint8, or floats from 0 to 1")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0.0 and high <= 1.0):  # false for NaN
        raise ValueError(
            f"image has float values from {low:g} to {high:g}, expected 0 to 1; pass uint8, divide by 255, or give the "
            "picture before it was normalised"
        )
    return (array * 255.0 + 0.5).astype(np.uint8)
