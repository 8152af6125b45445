"""A cache of its own for each test that downloads, and a hub on this machine."""

from __future__ import annotations

import pytest


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, with the network allowed."""
    monkeypatch.setenv("INTERNIMAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    # read from the environment once, by whichever test imports huggingface_hub first
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return tmp_path / "cache"
