"""Every command and every Python block of the README and of the page on training runs, and shows what is shown."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from internimage.models import embedded_weights
from internimage.ops import native
from internimage.weights import catalog, read_card

REPOSITORY = Path(__file__).parents[1]
TEXT = (REPOSITORY / "README.md").read_text(encoding="utf-8")
TRAINING = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
NOT_RUN = (
    "<!-- needs the network -->",
    "<!-- needs ImageNet -->",
    "<!-- starts several processes -->",
    "<!-- takes hours without a card -->",
)
NETWORK = "<!-- needs the network -->"
FENCE = re.compile(r"^(?P<before>[^\n]*)\n```(?P<language>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(match["language"], match["body"], match["before"] == NETWORK) for match in FENCE.finditer(TEXT)]
# the packaging tests build and install; the demo has its own test; `make test` is what runs this
INSTALLS = ("make demo", "make test", "pip install .")
OF_TRAINING = [match for match in FENCE.finditer(TRAINING) if match["before"] not in NOT_RUN]
COMMANDS = [
    line.partition("  #")[0].strip()
    for body in (
        *(body for language, body, network in BLOCKS if language == "sh" and not network),
        *(match["body"] for match in OF_TRAINING if match["language"] == "sh"),
    )
    for line in body.splitlines()
]
COMMANDS = list(dict.fromkeys(COMMANDS))
PYTHON = [body for language, body, _ in BLOCKS if language == "python"]
PYTHON += [match["body"] for match in OF_TRAINING if match["language"] == "python"]
SHOWN = [body.removeprefix("$ ").split("\n", 1) for language, body, _ in BLOCKS if language == "console"]
NEEDS_NETWORK = [body for language, body, network in BLOCKS if network]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The package as a wheel installs it, in a folder of its own; the kernel is the one that is already built."""
    folder = tmp_path_factory.mktemp("installed")
    sources, site = folder / "sources", folder / "site"
    shutil.copytree(REPOSITORY / "internimage", sources / "internimage", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, sources)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--target",
        site,
        ".",
    ]
    environment = {**os.environ, "CC": "/nonexistent/cc", "CXX": "/nonexistent/c++", "INTERNIMAGE_REQUIRE_KERNEL": "0"}
    done = subprocess.run(pip, cwd=sources, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    if native.PATH.is_file():
        shutil.copy(native.PATH, site / "internimage" / "ops" / "native")
    return site


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with what the README speaks of: a photo, pictures a folder a class, and the pictures of the demo."""
    folder, draw = tmp_path_factory.mktemp("here"), np.random.default_rng(0)
    pictures = [f"pictures/{name}/{index}.jpg" for name in ("cats", "dogs") for index in range(12)]
    for name in ("photo.jpg", *pictures):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (80, 100, 3), dtype=np.uint8)).save(folder / name)
    shutil.copytree(REPOSITORY / "internimage" / "assets" / "demo", folder / "internimage" / "assets" / "demo")
    return folder


# Answers commands in one process, since most of the time of a short one goes into importing torch.
WORKER = """
import json, pathlib, shlex, sys, traceback
import internimage
from internimage.cli.main import app
from typer.testing import CliRunner
assert pathlib.Path(internimage.__file__).is_relative_to(sys.argv[1]), internimage.__file__
for line in sys.stdin:
    done = CliRunner().invoke(app, shlex.split(line)[1:], prog_name="internimage")
    trace = "".join(traceback.format_exception(done.exception)) if done.exception else ""
    print(json.dumps([done.exit_code, done.stdout, done.stderr + trace]), flush=True)
"""


@pytest.fixture(scope="module")
def environment(installed) -> dict[str, str]:
    """Finds the installed package and its command, and no network."""
    path = os.pathsep.join((str(installed / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]))
    return {**os.environ, "PYTHONPATH": str(installed), "PATH": path, "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def run(installed, here, environment) -> Iterator[Callable[[str], str]]:
    """Runs a command line there and returns what it prints: ``internimage`` in one process, the rest in a shell."""
    worker = [sys.executable, "-c", WORKER, str(installed)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(worker, cwd=here, env=environment, **pipes) as process:

        def run(command: str) -> str:
            if not command.startswith("internimage "):
                return run_alone(command, here, environment)
            print(command, file=process.stdin, flush=True)
            code, out, err = json.loads(process.stdout.readline())
            assert code == 0, out + err
            return out

        yield run
        process.stdin.close()


def run_alone(command: str | list[str], folder: Path, environment: dict[str, str]) -> str:
    shell = isinstance(command, str)
    done = subprocess.run(command, cwd=folder, env=environment, shell=shell, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_first_screen_comes_first():
    order = ["make demo", "pip install internimage-torch", "import internimage", "$ internimage classify", "| model |"]
    assert [TEXT.index(word) for word in order] == sorted(TEXT.index(word) for word in order)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in INSTALLS])
def test_command(run, command):
    if command.startswith("internimage bench") and native.load_error() is not None:
        pytest.skip(str(native.load_error()))
    run(command)


def test_python(installed, here, environment):
    """All blocks, each with names of its own, in one process."""
    script = "import sys, internimage\nassert internimage.__file__.startswith(sys.argv[1]), internimage.__file__\n"
    script += "".join(f"exec({block!r}, {{}})\n" for block in PYTHON)
    run_alone([sys.executable, "-W", "error", "-c", script, str(installed)], here, environment)


@pytest.mark.parametrize(("command", "shown"), SHOWN, ids=[command for command, _ in SHOWN])
def test_shown_output_is_the_real_one(run, command, shown):
    """To the last word; probabilities to half a percent, since processors round differently."""
    want, got = _lines(shown), _lines(run(command))
    number = re.compile(r"\d+\.\d+")
    assert [number.sub("#", line) for line in got] == [number.sub("#", line) for line in want]
    figures = [[float(n) for line in lines for n in number.findall(line)] for lines in (got, want)]
    assert figures[0] == pytest.approx(figures[1], abs=0.5)


def _lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if line.strip(" ─")]


def test_what_is_not_run_needs_the_network_and_names_released_files():
    assert NEEDS_NETWORK
    for line in "".join(NEEDS_NETWORK).splitlines():
        words = line.partition("  #")[0].split()
        assert words[0] == "internimage" and any(catalog.find(catalog.DEFAULTS.get(word, word)) for word in words), line


def test_every_block_is_known():
    assert {language for language, _, _ in BLOCKS} == {"sh", "python", "console", "", "bibtex"}
    assert set(INSTALLS) <= set(COMMANDS) and len(SHOWN) == 1


def test_the_model_table_is_the_catalog():
    rows = re.findall(r"^\| `(\w+)` \| ([\d,.]+) M \| `(\w+)` \| (\d+) \| ([\d.]+) % \|$", TEXT, re.MULTILINE)
    of_imagenet = {name: file for name, file in catalog.DEFAULTS.items() if name != "internimage_h_meta"}
    assert {row[0]: row[2] for row in rows} == of_imagenet
    for _, params, weights, side, top1 in rows:
        entry = catalog.get(weights)
        assert (params, int(side), float(top1)) == (
            f"{entry.params / 1e6:,.1f}",
            entry.resolution[0],
            entry.scores["top1"],
        )


def test_the_accuracy_is_the_one_in_the_embedded_model():
    stated = re.search(r"<!-- top1 -->\s*([\d.]+) %", TEXT)
    card = read_card(embedded_weights("internimage_femto"))
    assert stated is not None and float(stated[1]) == round(card.scores["top1"], 2)


def test_links_within_the_repository_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", TEXT):
        assert (REPOSITORY / target).exists(), target
