"""``internimage models`` and ``internimage weights``: what they print, write and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from internimage.backbones import SIZES
from internimage.cli.main import app
from internimage.models import InternImageClassifier
from internimage.weights import read_card, to_released
from tests.weights.hub_server import Hub
from tests.weights.small import randomize


def run(*words: str, code: int = 0):
    """The command's standard output; its exit code is as expected."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def file(tmp_path):
    torch.save(
        {"model": to_released(randomize(InternImageClassifier(SIZES["internimage_femto"], 10))), "epoch": 3},
        tmp_path / "a.pth",
    )
    return tmp_path / "a.pth"


def test_models_as_a_table():
    shown = run("models").stdout
    assert "internimage_g_22kto1k_512" in shown and "top1 90.1" in shown and "29.9 M" in shown
    assert "mask_rcnn" not in shown and "--task all" in shown
    assert "mask_rcnn_internimage_t_fpn_1x_coco" in run("models", "--task", "detection").stdout
    assert "upernet_flash_internimage_b" in run("models", "flash").stdout
    assert "no released file has 'resnet'" in run("models", "resnet").stdout
    assert "--task" in (refusal := run("models", "--task", "x", code=2).stderr) and "expected one of" in refusal


def test_models_as_json():
    listed = json.loads(run("models", "--json").stdout)
    assert [size["name"] for size in listed["sizes"]] == list(SIZES)
    by_name = {entry["name"]: entry for entry in listed["released"]}
    assert len(by_name) == 98
    assert by_name["internimage_t_1k_224"]["repo"] == "OpenGVLab/InternImage"
    assert by_name["internimage_t_1k_224"]["licence"] == "MIT"
    assert by_name["flash_intern_image_t_1k_224"]["loads_into"] == "classifier"


def test_inspect(file):
    shown = run("weights", "inspect", file).stdout
    for part in ("internimage_femto", "classes", "10", "float32", "epoch"):
        assert part in shown
    found = json.loads(run("weights", "inspect", file, "--json", "--tensors").stdout)
    assert found["classes"] == 10 and found["tensor_shapes"]["head.bias"] == [10]


def test_convert_and_inspect(file, tmp_path):
    assert "wrote" in run("weights", "convert", file, tmp_path / "b.safetensors", "--to", "safetensors").stdout
    assert read_card(tmp_path / "b.safetensors").num_classes == 10
    done = json.loads(
        run("weights", "convert", tmp_path / "b.safetensors", tmp_path / "c", "--to", "hf", "--json").stdout
    )
    assert done["target"] == str(tmp_path / "c") and (tmp_path / "c" / "config.json").is_file()
    run("weights", "convert", tmp_path / "c", tmp_path / "d.pth", "--to", "released")
    assert "internimage_femto" in run("weights", "inspect", tmp_path / "c").stdout
    assert "--force" in run("weights", "convert", file, tmp_path / "d.pth", "--to", "released", code=1).stderr
    assert "expected one of" in run("weights", "convert", file, tmp_path / "e", "--to", "onnx", code=2).stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("inspect", "absent.pth"), "error: there is no file 'absent.pth'"),
        (("download", "internimage_t_1k_22"), "did you mean 'internimage_t_1k_224'"),
        (("download", "openlanev2_internimage_s"), "by hand"),
        (("download", "internimage_t_1k_224"), "HF_HUB_OFFLINE is set"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_errors_are_one_line(words, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = run("weights", *words, code=1)
    assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1 and not result.stdout


def test_download_prints_the_path(monkeypatch, cache):
    with Hub({"OpenGVLab/InternImage/internimage_t_1k_224.pth": b"x" * 10}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        path = run("weights", "download", "internimage_t_1k_224").stdout.strip()
        assert Path(path).read_bytes() == b"x" * 10
        paths = json.loads(run("weights", "download", "internimage_t_1k_224", "--json").stdout)
    assert paths == {"internimage_t_1k_224": path}


def test_a_target_that_cannot_be_written_is_an_error(file):
    too_long = file.with_name("b" * 256 + ".pth")
    assert "error: [Errno " in run("weights", "convert", file, too_long, "--to", "released", code=1).stderr
