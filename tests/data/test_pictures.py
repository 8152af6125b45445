"""Reading pictures from files, folders, addresses and arrays, good and bad."""

from __future__ import annotations

import http.server
import io
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from internimage.data import pictures
from internimage.data.pictures import PictureError, find_pictures, from_array, read_picture


def as_bytes(picture: Image.Image, format: str = "PNG", **options) -> bytes:
    packed = io.BytesIO()
    picture.save(packed, format, **options)
    return packed.getvalue()


RED = as_bytes(Image.new("RGB", (30, 20), "red"))


def test_a_file_is_read(tmp_path):
    (tmp_path / "red.png").write_bytes(RED)
    assert read_picture(tmp_path / "red.png").getpixel((0, 0)) == (255, 0, 0)


def test_a_photo_is_turned_upright_as_its_exif_data_says(tmp_path):
    picture = Image.new("RGB", (40, 20), "white")
    picture.paste("black", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter turn clockwise
    picture.save(tmp_path / "turned.jpg", exif=exif)
    got = read_picture(tmp_path / "turned.jpg")
    assert got.size == (20, 40)
    assert got.getpixel((10, 5))[0] < 10 and got.getpixel((10, 35))[0] > 245


def test_damaged_exif_data_does_not_matter(tmp_path):
    (tmp_path / "a.jpg").write_bytes(as_bytes(Image.new("RGB", (8, 8)), "JPEG", exif=b"Exif\0\0II*\0garbage"))
    assert read_picture(tmp_path / "a.jpg").size == (8, 8)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (5, 5), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_picture(tmp_path / "a.gif").convert("RGB").getpixel((0, 0)) == (255, 0, 0)


JPEG = as_bytes(Image.effect_noise((64, 64), 90).convert("RGB"), "JPEG")


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"", "bad.jpg: empty"),
        (b"hello", "not a picture"),
        (JPEG[: len(JPEG) // 2], "broken"),
        (RED[:60], "broken"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (b"P6 60000 60000 255 " + bytes(100), "pixels"),
        (b"P6 16000 12000 255 " + bytes(100), "pixels"),
    ],
    ids=["empty", "text", "truncated JPEG", "truncated PNG", "PostScript", "bomb", "large"],
)
def test_what_cannot_be_read_is_named(tmp_path, contents, words):
    (tmp_path / "bad.jpg").write_bytes(contents)
    with pytest.raises(PictureError, match=words) as caught:
        read_picture(tmp_path / "bad.jpg")
    assert str(tmp_path / "bad.jpg") in str(caught.value)


@pytest.mark.parametrize("name", ["missing.png", ".", "null\0byte"])
def test_what_is_no_file_is_named(tmp_path, name):
    with pytest.raises(PictureError):
        read_picture(f"{tmp_path}/{name}")


def test_a_folder_gives_its_pictures_sorted_and_nothing_else(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png", "below/c.webp", ".git/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(RED)
    got = find_pictures([str(tmp_path), "-", "missing.png", "http://host/x"])
    assert got == [
        *(str(tmp_path / name) for name in ("a.JPG", "b.png", "below/c.webp")),
        "-",
        "missing.png",
        "http://host/x",
    ]


def test_a_folder_is_no_picture(tmp_path):
    assert find_pictures([str(tmp_path)]) == [str(tmp_path)]
    with pytest.raises(PictureError, match="the folder holds no pictures"):
        read_picture(tmp_path)
    (tmp_path / "red.png").write_bytes(RED)
    with pytest.raises(PictureError, match="a folder, expected one picture"):
        read_picture(tmp_path)


def test_a_file_of_numbers_that_are_none_is_named(tmp_path):
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(PictureError, match="nan.tif: some of its values are NaN"):
        read_picture(tmp_path / "nan.tif")


class Server(http.server.BaseHTTPRequestHandler):
    """Answers /good, /huge (never ends), /slow (drips), /silent (says nothing), and 404 for the rest."""

    def do_GET(self):
        if self.path == "/silent":
            time.sleep(1.5)
            return
        self.send_response(200 if self.path in ("/good", "/huge", "/slow", "/text") else 404)
        self.end_headers()
        if self.path == "/good":
            self.wfile.write(RED)
        elif self.path == "/text":
            self.wfile.write(b"hello")
        try:
            while self.path in ("/huge", "/slow"):
                self.wfile.write(bytes(10_000 if self.path == "/huge" else 10))
                time.sleep(0 if self.path == "/huge" else 0.05)
        except OSError:
            pass  # the reader has had enough

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_address_is_read(address):
    assert read_picture(f"{address}/good").size == (30, 20)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/missing", "404"),
        ("/text", "not a picture"),
        ("/huge", "over 0.1 MiB"),
        ("/slow", "in time"),
        ("/silent", "no answer"),
    ],
)
def test_an_address_that_fails_is_named(address, path, words):
    with pytest.raises(PictureError, match=words) as caught:
        read_picture(address + path, timeout=0.4, max_bytes=2**20 // 10)
    assert address + path in str(caught.value)


@pytest.mark.parametrize("bad", ["http://127.0.0.1:9/x.png", "http://", "https://[", "http://127.0.0.1:port/"])
def test_an_address_that_is_none_is_named(bad):
    with pytest.raises(PictureError):
        read_picture(bad, timeout=2)


def test_standard_input_is_read_up_to_a_limit(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(RED)))
    assert read_picture("-").size == (30, 20)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(RED)))
    with pytest.raises(PictureError, match="standard input: over"):
        read_picture("-", max_bytes=50)


@pytest.mark.parametrize("stream", [None, io.TextIOWrapper(io.BytesIO())], ids=["closed", "empty"])
def test_standard_input_without_a_picture_is_named(monkeypatch, stream):
    monkeypatch.setattr("sys.stdin", stream)
    with pytest.raises(PictureError, match="standard input: nothing came"):
        read_picture("-")


PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "array",
    [
        PIXELS,
        PIXELS / 255,
        (PIXELS / 255).astype(np.float32),
        PIXELS[:, ::-1][:, ::-1],
        torch.from_numpy(PIXELS).permute(2, 0, 1),
        torch.from_numpy(PIXELS / 255).permute(2, 0, 1),
        torch.from_numpy(PIXELS / 255).permute(2, 0, 1).requires_grad_(),
    ],
    ids=["uint8", "float64", "float32", "strides", "tensor", "float tensor", "tensor with gradient"],
)
def test_arrays_are_the_pictures_they_hold(array):
    assert np.array_equal(np.asarray(from_array(array)), PIXELS)


@pytest.mark.parametrize("array", [PIXELS[..., 0], PIXELS[..., :1], torch.from_numpy(PIXELS[..., 0])], ids=str)
def test_grey_arrays(array):
    assert np.array_equal(np.asarray(from_array(array)), PIXELS[..., 0])


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 3, 4, 5), np.uint8), "shape"),
        (np.zeros((3, 8, 8), np.uint8), r"\(H, W, C\)"),
        (torch.zeros(8, 8, 3), r"\(C, H, W\)"),
        (np.zeros((0, 4), np.uint8), "empty"),
        (np.zeros(9), "shape"),
        (np.full((2, 2), 255.0), "0 to 1"),
        (np.full((2, 2), -0.1), "-0.1"),
        (np.full((2, 2), np.nan), "nan"),
        (np.zeros((2, 2), np.int64), "int64"),
        (np.zeros((2, 2), bool), "bool"),
        (torch.zeros(2, 2, device="meta"), "meta device"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_arrays_that_are_no_picture_are_named(array, words):
    with pytest.raises(ValueError, match=words):
        from_array(array)


def test_formats_that_would_start_another_program_are_left_out():
    assert not {"EPS", "PSD", "WMF"} & set(pictures.FORMATS)
