"""internimage evaluate."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from PIL import Image

import internimage as package
from internimage.evaluate import asking
from internimage.evaluate.published import published_top1
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


def test_a_folder_takes_page_picture_and_table(internimage, model, folder):
    got = internimage("evaluate", model, "--data", folder, "--report", "out", "--workers", 1)
    assert got.code == 0 and sorted(p.name for p in Path("out").iterdir()) == [
        "classes.csv", "confusion.png", "index.html",
    ]  # fmt: skip
    with Image.open("out/confusion.png") as drawn:
        assert drawn.width > 100
    page = Path("out/index.html").read_text()
    top1 = re.search(r"top-1 ([\d.]+) %", got.out).group(1)
    assert f"{top1} %" in page and "Worst mistakes" in page and "bag [big]" in page and str(folder) in page


def test_page_and_picture_where_they_are_wanted(internimage, model, folder):
    got = internimage("evaluate", model, "--data", folder, "--report", "a/page.html", "--confusion", "b/matrix.png")
    assert got.code == 0 and sorted(map(str, Path().rglob("*.*"))) == ["a/page.html", "b/matrix.png"]


def test_it_goes_on_from_what_was_kept(internimage, model, folder, monkeypatch):
    first = internimage("evaluate", model, "--data", folder, "--resume", "kept", "--json")
    assert first.code == 0 and Path("kept/evaluation.safetensors").is_file()
    monkeypatch.setattr(asking, "_ask", None)  # nothing is left to ask about
    assert internimage("evaluate", model, "--data", folder, "--resume", "kept", "--json").json == first.json


def test_interrupted_it_keeps_what_was_counted(internimage, model, folder, monkeypatch):
    judge = asking.judge

    def judge_and_interrupt(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return judge(*arguments)

    monkeypatch.setattr(asking, "judge", judge_and_interrupt)
    command = ("evaluate", model, "--data", folder, "--resume", "kept", "--batch-size", 4)
    got = internimage(*command)
    assert got.code == 128 + signal.SIGTERM and got.out == ""
    assert "stopped after 4 of 6 pictures; the same command goes on" in got.err
    monkeypatch.undo()
    monkeypatch.chdir(folder.parent / "here")
    assert internimage(*command).out.split(" of ")[0] == internimage(*command[:4]).out.split(" of ")[0]


def test_a_validation_part_is_taken_and_a_list_is_too(internimage, model, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "divided" / "val")
    shutil.copytree(folder, tmp_path / "divided" / "train")
    (tmp_path / "divided" / "train" / NAMES[0] / "40.png").unlink()
    for split, pictures in ((), 6), (("--split", "train"), 5):
        got = internimage("evaluate", model, "--data", tmp_path / "divided", *split, "--json")
        assert got.code == 0 and got.json["pictures"] == pictures
    (tmp_path / "list.csv").write_text("".join(f"classes/{name}/40.png,{name}\n" for name in NAMES))
    assert internimage("evaluate", model, "--data", tmp_path / "list.csv", "--json").json["pictures"] == 3


def test_released_weights_stand_beside_what_was_published():
    assert published_top1("internimage_t_1k_224", 1000) == 83.5
    assert published_top1("internimage_t_1k_224", 10) is None  # another measurement
    assert published_top1("internimage_l_22k_192to384", 1000) is None and published_top1("small", 3) is None


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
    internimage("evaluate", model, "--data", folder, "--report", "page.html")
    assert "7, of which 1 cannot be read" in Path("page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "missing"], "there is no folder missing"),
        (["--data", "empty"], "empty holds no folders, expected a folder a class"),
        (["--data", "synthetic"], "the model does not know 2 of the 2 classes of the data, such as 'upright'"),
        (["--data", "synthetic", "--device", "cuda:99"], "is not on this machine"),
        (["--data", "synthetic", "--download", "there"], "--download fetches fashion-mnist only"),
        (["--data", "pictures", "--split", "best"], "expected one of train, val, test"),
        (["--data", "pictures", "--confusion", "matrix.txt"], "no picture format written here"),
        (["--data", "pictures", "--report", "page.txt"], "ends in '.txt', expected .html, or a folder"),
        (["--data", "pictures", "--per-class", "empty"], "--per-class empty is a folder"),
        (["--data", "pictures", "--resume", "text.safetensors"], "is not an evaluation that was broken off"),
    ],
)
def test_refusals(internimage, model, folder, tmp_path, arguments, message):
    (tmp_path / "here" / "empty").mkdir()
    (tmp_path / "here" / "text.safetensors").write_text("nothing of the kind")
    folder.rename(tmp_path / "here" / "pictures")
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
