"""The Python in docs/operators.md runs, top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"


@pytest.mark.skipif(not PAGE.exists(), reason="the package is tested without its repository")
def test_every_block_of_the_page_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) >= 5
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["smaller"].shape == (2, 28, 28, 64) and names["output"].shape == (2, 900, 256)
    assert "reference" in capsys.readouterr().out
