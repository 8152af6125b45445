"""The Triton backend on a machine without a card: its kernels in the interpreter, and its reasons to refuse."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from internimage.ops import BackendError, available_backends, triton_backend

from .cases import Case, forward

REPOSITORY = Path(__file__).parents[2]
without_card = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")


OPERATORS = ["dcnv3", "dcnv4", "ms_deform_attn"]


def in_the_interpreter(which: str, *operators: str) -> None:
    """Runs the operators' ``*_triton_cases.py`` in a process of their own; fails with its report."""
    pytest.importorskip("triton", reason="Triton is not installed")
    files = [str(Path(__file__).with_name(f"{operator}_triton_cases.py")) for operator in operators]
    command = [sys.executable, "-m", "pytest", *files, "-m", which, "-q", "--tb=short", "-p", "no:cacheprovider"]
    done = python(command, TRITON_INTERPRET="1")
    assert done.returncode == 0, "\n" + done.stdout + done.stderr


def python(command: list[str], **environment: str) -> subprocess.CompletedProcess:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TRITON_", "PYTEST_"))}
    return subprocess.run(command, cwd=REPOSITORY, env=inherited | environment, capture_output=True, text=True)


@pytest.mark.timeout(1800)  # a minute and a half where nothing else runs
def test_kernels_in_the_interpreter():
    in_the_interpreter("not slow", *OPERATORS)


@pytest.mark.timeout(1800)
def test_what_a_card_is_asked_for_runs_in_the_interpreter_where_it_can():
    pytest.importorskip("triton", reason="Triton is not installed")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        "tests/gpu/pytest.ini",
        "tests/gpu",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    done = python([*command, "--tb=short", "--ignore=tests/gpu/test_stage.py"], TRITON_INTERPRET="1")
    assert done.returncode == 0, "\n" + done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("operator", [*OPERATORS, "ms_deform_attn_random"])
def test_kernels_in_the_interpreter_at_length(operator):
    in_the_interpreter("slow", operator)


def test_asking_imports_no_triton():
    script = """
import sys
import torch
from internimage.ops import available_backends, dcnv3
before = set(sys.modules)
available_backends("cpu"), available_backends("cuda")
dcnv3(torch.zeros(1, 3, 4, 2), torch.zeros(1, 3, 4, 18), torch.zeros(1, 3, 4, 9))
loaded = {name for name in sys.modules if name.split(".")[0] == "triton" or name.endswith("triton_kernels")}
assert not loaded, sorted(loaded)
"""
    done = python([sys.executable, "-c", script])
    assert done.returncode == 0, done.stderr


def test_refuses_the_cpu_outside_the_interpreter_and_says_how_to_get_there(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    inputs = Case("any", (1, 3, 4)).make(torch.float32)
    with pytest.raises(BackendError, match="triton +the tensors are on cpu .*TRITON_INTERPRET=1"):
        forward(inputs, "triton")


@without_card
def test_says_that_there_is_no_card():
    assert available_backends("cuda")["triton"] == ["torch finds no CUDA device"]


def test_names_what_is_missing(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(triton_backend.shutil, "which", lambda name: None)
    assert "C compiler" in triton_backend._look_around.__wrapped__("cuda")
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert "ROCm" in triton_backend._look_around.__wrapped__("cuda")
    monkeypatch.setattr(triton_backend.importlib.util, "find_spec", lambda name: None)
    assert triton_backend._look_around.__wrapped__("cuda") == "Triton is not installed"
