"""internimage evaluate."""

from __future__ import annotations

import pytest
from PIL import Image

import internimage as package
from tests.small_model import NAMES


@pytest.fixture
def folder(tmp_path):
    """Two pictures of each class that the small model knows."""
    for number, name in enumerate(NAMES):
        (tmp_path / "classes" / name).mkdir(parents=True)
        for level in (40, 200):
            Image.new("L", (32, 32), level + 5 * number).save(tmp_path / "classes" / name / f"{level}.png")
    return tmp_path / "classes"


def test_a_folder_of_class_folders(internimage, model, folder):
    got = internimage("evaluate", model, "--data", folder)
    right = sum(
        package.load(model, device="cpu").predict(path).top == path.parent.name for path in folder.rglob("*.png")
    )
    assert (got.code, got.err) == (0, "")
    assert got.out.startswith(f"small: top-1 {100 * right / 6:.2f} % of 6 pictures") and "top-5" not in got.out


def test_json_and_the_table_of_classes(internimage, model, folder, tmp_path):
    got = internimage("evaluate", model, "--data", folder, "--json", "--per-class", tmp_path / "per-class.csv")
    assert got.code == 0 and got.json["pictures"] == 6 and 0 <= got.json["top1"] <= 100 and got.json["unreadable"] == []
    assert {entry["name"] for entry in got.json["classes"]} == set(NAMES)
    assert (tmp_path / "per-class.csv").read_text().splitlines()[0] == "class,pictures,top1,top5,taken_for,taken_times"


def test_classes_taken_by_order_are_pointed_out(internimage, model, folder):
    for number, name in enumerate(NAMES):
        (folder / name).rename(folder / f"n{number}")
    got = internimage("evaluate", model, "--data", folder)
    assert got.code == 0 and f"taken by order: n0 is {NAMES[0]} ... n2 is {NAMES[2]}" in got.err


def test_unreadable_pictures_are_counted_and_the_exit_code_says_so(internimage, model, folder):
    (folder / NAMES[0] / "broken.png").write_bytes(b"")
    got = internimage("evaluate", model, "--data", folder, "--json")
    assert got.code == 3 and got.json["pictures"] == 6 and len(got.json["unreadable"]) == 1
    assert "broken.png" in got.err and "1 of 7 could not be read" in got.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "missing"], "there is no folder missing"),
        (["--data", "empty"], "empty holds no folders, expected a folder a class"),
        (["--data", "synthetic"], "the model does not know 2 of the 2 classes of the data, such as 'upright'"),
        (["--data", "synthetic", "--device", "cuda:99"], "is not on this machine"),
        (["--data", "synthetic", "--download", "there"], "--download fetches fashion-mnist only"),
    ],
)
def test_refusals(internimage, model, tmp_path, arguments, message):
    (tmp_path / "here" / "empty").mkdir()
    got = internimage("evaluate", model, *arguments)
    assert got.code == 1 and got.out == "" and got.err.startswith("error: ") and message in got.err
    assert got.err.count("\n") == 1


def test_what_is_no_model(internimage, folder, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"nothing of the kind")
    for source in (tmp_path / "model.safetensors", "internimage_q"):
        got = internimage("evaluate", source, "--data", folder)
        assert got.code == 1 and got.err.startswith("error: ") and got.err.count("\n") == 1


def test_unknown_part_of_fashion_mnist(internimage, model):
    got = internimage("evaluate", model, "--split", "validation")
    assert got.code == 1 and "expected 'train' or 'test'" in got.err
