"""The C++ kernels under AddressSanitizer and UBSan, in a program of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
COMPILER = shutil.which(os.environ.get("CXX", "c++"))


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None or shutil.which("make") is None, reason="needs make and a C++ compiler")
def test_kernels_stay_within_their_buffers_and_match_naive_loops():
    command = ["make", "--no-print-directory", "sanitize"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "calls on baseline" in done.stdout and "all right" in done.stdout
