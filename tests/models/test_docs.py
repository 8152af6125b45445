"""The code in docs/models.md runs: on the meta device, where shapes are checked and nothing is computed or loaded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import internimage
from internimage.backbones import InternImageConfig

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


def test_the_code_of_the_page_runs(monkeypatch):
    pytest.importorskip("timm")
    loaded = []
    monkeypatch.setattr("internimage.weights.load_weights", lambda model, source, **_: loaded.append(source))
    names: dict = {}
    with torch.device("meta"):
        for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(block.replace("pretrained=True", "pretrained=False"), names)
    assert loaded == ["internimage_g_22kto1k_512"]


def test_every_field_and_every_size_stands_on_the_page():
    missing = [
        name for name in (*InternImageConfig.field_names(), *internimage.list_models()) if f"`{name}`" not in PAGE
    ]
    assert not missing
