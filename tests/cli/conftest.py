"""The command, called in this process, and a model and pictures for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from internimage.cli.main import app
from tests.small_model import save_small_model


@dataclass(frozen=True)
class Answer:
    """What a command did: exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be JSON and nothing else."""
        return json.loads(self.out)


@pytest.fixture
def internimage(tmp_path, monkeypatch) -> Callable[..., Answer]:
    """Runs ``internimage ARGUMENTS...`` in an empty folder."""
    folder = tmp_path / "here"
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)

    def run(*arguments: object, stdin: bytes | None = None) -> Answer:
        result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin, prog_name="internimage")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Answer(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A file with a small model."""
    return save_small_model(tmp_path_factory.mktemp("model") / "small.safetensors")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """A folder with three pictures, and three files that are called so."""
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)
    for name, values in zip(("a.png", "b [red].jpg", "below/c.webp"), pixels, strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(values).save(folder / name)
    whole = (folder / "b [red].jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_bytes(b"hello")
    return folder


@pytest.fixture
def photo(pictures) -> Path:
    """One good picture."""
    return pictures / "a.png"
