"""internimage finetune."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import internimage as package
from internimage.data.transforms import Preprocessing
from internimage.models import InternImageClassifier
from internimage.weights import ModelCard, save_model
from tests.small_model import NAMES, small_model


@pytest.fixture
def folder(tmp_path):
    """Light and dark pictures, ten of each, and a file that is none."""
    noise = np.random.default_rng(0)
    for name, level in (("dark", 30), ("light", 200)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(10):
            pixels = noise.integers(level, level + 50, (40, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{number}.png")
    (tmp_path / "pets" / "dark" / "broken.png").write_bytes(b"no picture")
    return tmp_path / "pets"


def test_own_classes_from_a_file(internimage, model, folder):
    got = internimage("finetune", folder, "--model", model, "--epochs", 2, "--json", "--device", "cpu")
    assert got.code == 0, got.err
    assert got.json["model"] == "runs/finetune_pets/finetune.safetensors" and got.json["epoch"] == 2
    assert got.err.count("broken.png") == 1 and "17 pictures of 2 classes" in got.err and "3 more held out" in got.err
    assert {"finetune.safetensors", "held_out.html", "metrics.csv", "report.html"} <= {
        path.name for path in Path("runs/finetune_pets").iterdir()
    }
    assert "pets, the part held out" in Path("runs/finetune_pets/held_out.html").read_text()
    assert "held_out.html" in Path(got.json["report"]).read_text(encoding="utf-8")
    classifier = package.load(got.json["model"], device="cpu")
    assert classifier.class_names == ("dark", "light") and classifier.note == "trained on pets, 2 classes"
    assert classifier.preprocessing == package.load(model, device="cpu").preprocessing
    answer = internimage("classify", folder / "light" / "0.png", "--model", got.json["model"], "--json")
    assert {row["label"] for row in answer.json["pictures"][0]["answers"]} == {"dark", "light"}
    checked = internimage("evaluate", got.json["model"], "--data", folder, "--json")
    assert checked.json["pictures"] == 20


def test_the_embedded_model_learns_without_a_network(internimage, folder):
    odd = "out of order"  # the command that is told can be pasted
    got = internimage("finetune", folder, "--epochs", 1, "--set", "image_sizes=32", "--output", odd, "--json")
    assert "PICTURE --model 'out of order/finetune.safetensors'" in got.err
    assert got.code == 0, got.err
    classifier = package.load("out of order/finetune.safetensors", device="cpu")
    embedded = package.load(device="cpu")
    assert classifier.preprocessing.dark_background and classifier.preprocessing.mean == embedded.preprocessing.mean
    assert classifier.preprocessing.image_size == 32 and len(classifier.class_names) == 2


def test_a_larger_model_reads_files_when_they_are_due(internimage, folder, tmp_path):
    small = small_model().config
    preprocessing = Preprocessing(image_size=128)
    card = ModelCard(name="rgb", config=replace(small, in_chans=3), num_classes=3, preprocessing=preprocessing)
    torch.manual_seed(0)
    save_model(tmp_path / "rgb.safetensors", InternImageClassifier(card.config, 3).state_dict(), card)
    got = internimage(
        "finetune", folder, "--model", tmp_path / "rgb.safetensors", "--epochs", 1, "--held-out", 0, "--json",
        "--workers", 1,
    )  # fmt: skip
    assert got.code == 0, got.err
    assert "21 pictures of 2 classes" in got.err and "top1" not in got.json
    assert package.load(got.json["model"], device="cpu").preprocessing.image_size == 128


def test_train_and_val_folders_are_taken_as_they_are(internimage, model, folder, tmp_path):
    for part in ("train", "val"):
        shutil.copytree(folder, tmp_path / "divided" / part)
    got = internimage("finetune", tmp_path / "divided", "--model", model, "--epochs", 1, "--output", "a", "--json")
    assert got.code == 0 and "20 pictures of 2 classes" in got.err and "20 more held out" in got.err
    got = internimage(
        "finetune", folder, "--val", tmp_path / "divided", "--model", model, "--epochs", 1, "--output", "b", "--json"
    )
    assert got.code == 0 and "20 more held out" in got.err


def test_what_is_measured_on_may_lack_a_class(internimage, model, folder, tmp_path):
    shutil.copytree(folder / "light", tmp_path / "val" / "light")
    got = internimage(
        "finetune", folder, "--val", tmp_path / "val", "--model", model, "--epochs", 1, "--output", "out", "--json"
    )
    assert got.code == 0 and "10 more held out" in got.err
    assert internimage("evaluate", got.json["model"], "--data", tmp_path / "val", "--json").json["top1"] == (
        pytest.approx(got.json["ema_top1"], abs=0.01)
    )


def test_it_is_resumed_with_the_same_recipe(internimage, model, folder):
    command = ("finetune", folder, "--model", model, "--epochs", 1, "--output", "out")
    assert internimage(*command).code == 0
    again = internimage(*command)
    assert again.code == 1 and "out holds a run already" in again.err
    assert internimage(*command, "--resume").code == 0
    other = internimage(*command, "--lr", 1e-5, "--resume")
    assert other.code == 1 and "was trained otherwise" in other.err and "lr is 1e-05" in other.err


def test_more_of_what_the_model_knows_keeps_its_classifier(internimage, model, folder, tmp_path):
    items = [
        [f"pets/{name}/{number}.png", label] for label, name in enumerate(("dark", "light")) for number in range(8)
    ]
    items += [["pets/light/8.png", 2], ["pets/light/9.png", 2]]
    (tmp_path / "more.json").write_text(json.dumps({"classes": NAMES, "items": items}))
    command = ("finetune", tmp_path / "more.json", "--model", model, "--epochs", 1, "--lr", 1e-9, "--json")
    got = internimage(*command)
    assert got.code == 0, got.err
    before, after = (package.load(path, device="cpu").model.head.fc.weight for path in (model, got.json["model"]))
    assert torch.allclose(before, after, atol=1e-6) and before.abs().max() > 1e-3
    assert package.load(got.json["model"], device="cpu").class_names == NAMES


def test_refusals(internimage, model, folder, tmp_path):
    def refused(*arguments):
        got = internimage("finetune", *arguments)
        assert got.code == 1 and got.out == "", got.err
        assert got.err.startswith("error: ") and got.err.count("\n") == 1
        return got.err

    assert "there is no folder missing" in refused("missing")
    assert "holds no folders" in refused(folder / "light")
    assert "--held-out is 1.0, expected 0 to below 1" in refused(folder, "--held-out", 1)
    assert "give one of them" in refused(folder, "--val", folder, "--held-out", 0.1)
    assert "there is no" in refused(folder, "--model", "internimage_q")
    (tmp_path / "model.safetensors").write_bytes(b"nothing of the kind")
    assert "model.safetensors" in refused(folder, "--model", tmp_path / "model.safetensors")
    assert "did you mean 'weight_decay'" in refused(folder, "--model", model, "--set", "weight_dcay=1")
    assert "not on this machine" in refused(folder, "--model", model, "--device", "cuda:99")
    (tmp_path / "file").write_text("")
    assert "is a file, expected a folder" in refused(folder, "--model", model, "--output", tmp_path / "file")
    (tmp_path / "val" / "other").mkdir(parents=True)
    shutil.copy(folder / "light" / "0.png", tmp_path / "val" / "other")
    assert "1 class folders and the data set 2" in refused(folder, "--val", tmp_path / "val")
    (tmp_path / "list.csv").write_text("path,label\nlight/0.png,one\n")
    assert "list.csv" in refused(tmp_path / "list.csv")
    (folder / "empty").mkdir()
    assert "empty holds no pictures" in refused(folder)
    (folder / "empty").rmdir()
    shutil.rmtree(folder / "light")
    assert "classes is 1, expected two or more" in refused(folder, "--model", model)


def test_bad_pictures_may_end_the_run(internimage, model, folder):
    got = internimage("finetune", folder, "--epochs", 1, "--bad-pictures", "raise")  # read into memory
    assert got.code == 1 and got.err.startswith("error: ") and "broken" in got.err.splitlines()[-1]
    got = internimage("finetune", folder, "--epochs", 1, "--bad-pictures", "stop")
    assert got.code == 1 and "is 'stop', expected 'skip' or 'raise'" in got.err
    got = internimage("finetune", folder, "--epochs", 1, "--cache", "yes")
    assert got.code == 1 and "is 'yes', expected one of no, part, full" in got.err


def test_a_class_of_which_no_picture_can_be_read(internimage, model, folder):
    for path in (folder / "light").iterdir():
        path.write_bytes(b"")
    got = internimage("finetune", folder, "--model", model)
    assert got.code == 1 and "none of the pictures of class 'light' can be read" in got.err


@pytest.mark.slow
def test_two_processes_write_one_model_and_speak_with_one_voice(model, folder, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = ["-m", "internimage", "finetune", folder, "--model", model, "--epochs", 2, "--device", "cpu", "--json"]
    ran = subprocess.run(
        [str(word) for word in (*torchrun, *command)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["steps"] == 8 and ran.stderr.count("on 2 processes (ddp)") == 1
    written = {path.name for path in (tmp_path / "runs" / "finetune_pets").iterdir()}
    assert {"finetune.safetensors", "held_out.html", "report.html"} <= written
