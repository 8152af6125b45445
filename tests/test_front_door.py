"""``import internimage``: what it offers, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

import internimage


def test_everything_it_offers_is_there():
    assert all(getattr(internimage, name) is not None for name in internimage.__all__)
    assert set(internimage.__all__) <= set(dir(internimage))


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        internimage.nonsense  # noqa: B018


def test_importing_it_does_not_import_torch():
    script = "import sys, internimage; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", script], check=True)
