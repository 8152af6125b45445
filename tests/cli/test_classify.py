"""internimage classify."""

from __future__ import annotations

import os
import shutil

import pytest
from PIL import Image

import internimage as package
from tests.small_model import NOTE, save_metadata_model


def test_one_picture(internimage, model, photo):
    got = internimage("classify", photo, "--model", model)
    assert (got.code, got.err) == (0, "")
    want = package.load(model, device="cpu").predict(photo)
    assert photo.name in got.out.replace("\n", "") and NOTE in got.out
    assert got.out.index(want.labels[0]) < got.out.index(want.labels[1]) < got.out.index(want.labels[2])
    assert f"{want.probs[0]:.1%}" in got.out


def test_names_in_brackets_are_not_taken_for_markup(internimage, model, pictures):
    got = internimage("classify", pictures / "b [red].jpg", "--model", model)
    assert "b [red].jpg" in got.out and "bag [big]" in got.out


def test_json_is_the_prediction_and_nothing_else(internimage, model, photo):
    got = internimage("classify", photo, "--model", model, "--json", "--top", 2)
    want = package.load(model, device="cpu").predict(photo, top=2)
    (picture,) = got.json["pictures"]
    assert (got.code, got.json["model"], got.json["skipped"]) == (0, "small", [])
    assert picture["picture"] == str(photo) and picture["top"] == want.top and picture["note"] == NOTE
    assert [(a["label"], a["index"]) for a in picture["answers"]] == list(zip(want.labels, want.indices, strict=True))
    assert [a["prob"] for a in picture["answers"]] == pytest.approx(want.probs, abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_a_folder_names_skips_and_counts_what_cannot_be_read(internimage, model, pictures, batch_size):
    got = internimage("classify", pictures, "--model", model, "--json", "--batch-size", batch_size)
    assert got.code == 3
    names = [entry["picture"].removeprefix(f"{pictures}/") for entry in got.json["pictures"]]
    assert names == ["a.png", "b [red].jpg", "below/c.webp"]
    skipped = {entry["picture"].removeprefix(f"{pictures}/"): entry["reason"] for entry in got.json["skipped"]}
    assert list(skipped) == ["cut.jpg", "empty.png", "text.png"] and "broken" in skipped["cut.jpg"]
    assert all(name in got.err for name in skipped) and "3 of 6 could not be read" in got.err


def test_a_table_for_a_folder_has_a_row_a_picture(internimage, model, pictures):
    got = internimage("classify", pictures, "--model", model)
    assert got.code == 3 and all(name in got.out for name in ("a.png", "b [red].jpg", "c.webp"))


def test_nothing_readable_exits_with_1(internimage, model, pictures):
    got = internimage("classify", pictures / "text.png", "missing.jpg", "--model", model, "--json")
    assert got.code == 1 and got.json["pictures"] == [] and len(got.json["skipped"]) == 2
    assert "2 of 2 could not be read" in got.err


def test_standard_input(internimage, model, photo):
    got = internimage("classify", "-", "--model", model, "--json", "--save-dir", "out", stdin=photo.read_bytes())
    want = internimage("classify", photo, "--model", model, "--json")
    assert got.json["pictures"][0]["answers"] == want.json["pictures"][0]["answers"]
    assert got.json["pictures"][0]["drawn"] == "out/standard-input.classified.png"


def test_drawings_keep_their_names_and_none_replaces_another(internimage, model, pictures, tmp_path):
    shutil.copytree(pictures / "below", tmp_path / "other" / "below")
    shutil.copy(pictures / "below" / "c.webp", tmp_path / "other" / "c-2.webp")
    folders = (tmp_path / "other", pictures / "below", pictures / "below")
    got = internimage("classify", *folders, "--model", model, "--json", "--save-dir", "out/new")
    drawn = [entry["drawn"] for entry in got.json["pictures"]]
    assert len(set(drawn)) == 4 and "4 drawn in out/new" in got.err
    for path in drawn:
        with Image.open(path) as picture:
            assert picture.height > picture.width * 0.8


def test_a_file_where_the_drawings_should_go_is_named(internimage, model, photo, tmp_path):
    (tmp_path / "file").write_text("")
    got = internimage("classify", photo, "--model", model, "--save-dir", tmp_path / "file")
    assert got.code == 1 and got.err == f"error: --save-dir {tmp_path / 'file'} is a file, expected a folder\n"
    got = internimage("classify", photo, "--model", "missing.pth", "--save-dir", tmp_path / "file" / "below")
    assert got.code == 1 and got.err.startswith("error: --save-dir: no file can be made in")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_dtype_asked_for(internimage, model, photo, dtype):
    got = internimage("classify", photo, "--model", model, "--json", "--dtype", dtype, "--device", "cpu")
    assert got.code == 0 and sum(a["prob"] for a in got.json["pictures"][0]["answers"]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "internimage_tt"], "internimage_t"),
        (["--model", "missing.pth"], "missing.pth"),
        (["--weights", "missing.pth"], "missing.pth"),
        (["--device", "abacus"], "abacus"),
        (["--device", "cuda:99"], "it has cpu"),
        (["--dtype", "int8"], "bfloat16"),
        (["--backend", "nonsense"], "reference"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_does_not_fit_is_one_line_and_exits_with_1(internimage, model, photo, arguments, words):
    arguments = arguments if "--model" in arguments or "--weights" in arguments else [*arguments, "--model", model]
    got = internimage("classify", photo, *arguments)
    assert (got.code, got.out) == (1, "") and got.err.startswith("error: ") and words in got.err
    assert "Traceback" not in got.err


def test_weights_that_are_none_are_named(internimage, photo):
    got = internimage("classify", photo, "--model", "internimage_t", "--weights", photo)
    assert got.code == 1 and photo.name in got.err


@pytest.mark.parametrize("option", ["--model", "--weights"])
def test_an_empty_option_is_named(internimage, photo, option):
    got = internimage("classify", photo, option, "")
    assert got.code == 2 and option in got.err and "it is empty" in got.err


def test_an_empty_folder_is_named(internimage, model, photo, tmp_path):
    (tmp_path / "empty").mkdir()
    got = internimage("classify", tmp_path / "empty", "--model", model)
    assert got.code == 1 and "no pictures" in got.err
    got = internimage("classify", tmp_path / "empty", photo, "--model", model, "--json")
    assert got.code == 3 and len(got.json["pictures"]) == 1 and "1 of 2 could not be read" in got.err


def test_the_backend_of_the_environment(internimage, model, photo, monkeypatch):
    monkeypatch.setenv("INTERNIMAGE_BACKEND", "reference")
    assert internimage("classify", photo, "--model", model).code == 0
    monkeypatch.setenv("INTERNIMAGE_BACKEND", "nonsense")
    got = internimage("classify", photo, "--model", model)
    assert got.code == 1 and "nonsense" in got.err


def test_a_name_that_is_no_text_is_spelled_out(internimage, model, photo, tmp_path):
    for name in (b"caf\xe9.png", b"caf\xe8.png"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(photo.read_bytes() if b"\xe9" in name else b"")
    got = internimage("classify", tmp_path, "--model", model, "--save-dir", "out")
    assert got.code == 3 and r"caf\udce9.png" in got.out.replace("\n", "") and r"caf\udce8.png" in got.err
    got = internimage("explain", tmp_path / os.fsdecode(b"caf\xe8.png"), "--model", model)
    assert got.code == 1 and "png: empty" in got.err


def test_drawings_beside_pictures_replace_none_of_them(internimage, model, photo, tmp_path):
    names = ("twin.jpg", "twin.png", "twin.classified.png")
    for name in names:
        shutil.copy(photo, tmp_path / name)
    sources, before = (tmp_path / names[0], tmp_path / names[2]), photo.read_bytes()
    got = internimage("classify", *sources, "--model", model, "--json", "--save-dir", tmp_path)
    assert got.code == 0 and all((tmp_path / name).read_bytes() == before for name in names)
    drawn = ["twin-2.classified.png", "twin.classified.classified.png"]
    assert [entry["drawn"] for entry in got.json["pictures"]] == [str(tmp_path / name) for name in drawn]


def test_date_and_place_of_the_pictures(internimage, photo, pictures, tmp_path):
    path = save_metadata_model(tmp_path / "dated.safetensors")
    classifier = package.load(path, device="cpu")
    plain, dated = (
        internimage("classify", photo, "--model", path, "--json", *more).json["pictures"][0]["answers"]
        for more in ((), ("--date", "2018-03-01", "--location", "-33.9,151.2"))
    )
    want = classifier.predict(photo, date="2018-03-01", location=(-33.9, 151.2))
    assert [answer["prob"] for answer in dated] == pytest.approx(want.probs, abs=1e-6)
    assert [answer["prob"] for answer in plain] == pytest.approx(classifier.predict(photo).probs, abs=1e-6)
    got = internimage("classify", pictures, "--model", path, "--date", "2018-03-01", "--batch-size", 2)
    assert got.code == 3 and "3 of 6 could not be read" in got.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--date", "2018-03-01"], 1, "small knows nothing of dates and places"),
        (["--location", "48,11"], 1, "small knows nothing of dates and places"),
        (["--date", "today"], 1, "expected yyyy-mm-dd"),
        (["--location", "95,11"], 1, "latitude is 95.0, expected degrees from -90 to 90"),
        (["--location", "here"], 2, "expected LAT,LON in degrees"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_date_or_place_that_is_not_taken_is_one_line(internimage, model, photo, arguments, code, words):
    got = internimage("classify", photo, "--model", model, *arguments)
    assert (got.code, got.out) == (code, "") and words in got.err.replace("\n", " ")
