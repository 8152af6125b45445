"""The picture: made, whole, and with the words it should have."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from PIL import Image

from internimage.bench import chart
from internimage.canvas import Canvas, picture_format

NAMESPACE = "{http://www.w3.org/2000/svg}"


def words_of(path):
    root = ElementTree.parse(path).getroot()
    return [element.text for element in root.iter(f"{NAMESPACE}text")], root


def test_an_svg_says_what_was_measured_and_stays_on_its_page(results, tmp_path):
    chart.save(results, tmp_path / "a.svg")
    words, root = words_of(tmp_path / "a.svg")
    for expected in (
        "Deformable operators, float32, on A & B <cpu>, one thread",
        "Roofline",
        "matrix product, 100 GFLOP/s",
        "copy, 10 GB/s",
        "dcnv4",
        "56x56x128/4",
        "9.0x   1 ms",
        "classify 224x224, batch 1",
        "internimage_t",
        "free operator",
        "1.15   2 ms",
    ):
        assert expected in words, expected
    width, height = float(root.get("width")), float(root.get("height"))
    for element in root.iter(f"{NAMESPACE}text"):
        assert 0 < float(element.get("x")) < width and 0 < float(element.get("y")) < height
    for element in root.iter(f"{NAMESPACE}rect"):
        assert float(element.get("x", 0)) + float(element.get("width")) <= width


def test_a_png_has_ink_on_it(results, tmp_path):
    chart.save(results, tmp_path / "a.png")
    picture = Image.open(tmp_path / "a.png").convert("RGB")
    colors = {color for _, color in picture.getcolors(2**24)}
    assert picture.width == 2 * chart.WIDTH and (255, 255, 255) in colors and chart.COLORS["dcnv4"] in colors


@pytest.mark.parametrize("part", ["op", "model"])
def test_one_part_alone_is_drawn(part, results, tmp_path):
    del results["op" if part == "model" else "model"]
    chart.save(results, tmp_path / "a.svg")
    words, _ = words_of(tmp_path / "a.svg")
    assert ("Roofline" in words) == (part == "op")
    assert ("classify 224x224, batch 1" in words) == (part == "model")


def test_without_ceilings_there_are_bars_alone(results, tmp_path):
    chart.save({**results, "ceilings": []}, tmp_path / "a.svg")
    words, _ = words_of(tmp_path / "a.svg")
    assert "Roofline" not in words and "56x56x128/4" in words


def test_nothing_measured_is_an_error(results):
    with pytest.raises(ValueError, match="there is nothing to draw"):
        chart.draw({**results, "op": [], "model": {"runs": []}})


@pytest.mark.parametrize("name", ["a.pdf", "a"])
def test_other_formats_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"expected \.svg or \.png"):
        picture_format(tmp_path / name)


def test_both_ways_of_drawing_hold_the_same_marks(tmp_path):
    canvas = Canvas(60, 40)
    canvas.rectangle(0, 0, 30, 40, (10, 20, 30))
    canvas.line([(30, 20), (60, 20)], (200, 0, 0), 4, dash=5)
    canvas.dot(45, 30, 4, (0, 0, 200))
    canvas.text(31, 8, "a < b", 12)
    assert "a &lt; b" in canvas.svg() and 'stroke-dasharray="5"' in canvas.svg()
    picture = canvas.picture()
    assert picture.size == (120, 80) and picture.getpixel((10, 10)) == (10, 20, 30)
    assert picture.getpixel((90, 60)) == (0, 0, 200)
    assert picture.getpixel((64, 40)) == (200, 0, 0) and picture.getpixel((75, 40)) == (255, 255, 255)
