"""The Python of docs/operators.md and docs/in_your_network.md runs; the picture is what its script draws."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

DOCS = Path(__file__).parents[2] / "docs"
pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="the package is tested without its repository")


def run_page(name: str) -> dict:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), flags=re.DOTALL)
    assert len(blocks) >= 5
    names: dict = {}
    for block in blocks:
        exec(compile(block, name, "exec"), names)
    return names


def test_every_block_of_the_page_of_operators_runs(capsys):
    names = run_page("operators.md")
    assert names["smaller"].shape == (2, 28, 28, 64) and names["output"].shape == (2, 900, 256)
    assert "reference" in capsys.readouterr().out


def test_the_page_for_other_networks_runs_and_its_u_net_learns(capsys):
    names = run_page("in_your_network.md")
    assert names["conv"](torch.zeros(1, 32, 40, 40)).shape == (1, 64, 20, 20)
    assert names["losses"][-1] < 0.6 * names["losses"][0]
    assert names["backbone"].feature_info.channels() == [128, 256, 512]
    assert re.fullmatch(r"loss 0\.\d\d to 0\.\d\d\n", capsys.readouterr().out)


def test_the_picture_is_what_its_script_draws():
    drawn = runpy.run_path(str(DOCS / "pictures" / "draw_operators.py"))["draw"]()
    with Image.open(DOCS / "pictures" / "operators.png") as kept:
        assert kept.size == drawn.size
        difference = np.abs(np.asarray(kept, dtype=float) - np.asarray(drawn, dtype=float))
    assert difference.mean() < 1  # another version of Pillow may set letters a little differently
