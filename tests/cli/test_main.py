"""The command as a whole: help, version, errors in one line, and nothing heavy before it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from internimage import __version__
from internimage.cli import main
from internimage.cli.main import VERBS


def test_version(internimage):
    assert internimage("--version").out == f"internimage {__version__}\n"


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "internimage", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("internimage "), done


def test_help_lists_every_verb(internimage):
    got = internimage("--help")
    assert got.code == 0
    assert all(verb in got.out for verb in VERBS) and "Exit codes" in got.out


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_shows_an_example(internimage, verb):
    got = internimage(verb, "--help")
    assert got.code == 0 and f"internimage {verb}" in got.out


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["classify", "--help"], ["train", "--help"]], ids=" ".join
)
def test_help_does_not_wait_for_torch(arguments):
    script = f"""
import sys
from internimage.cli.main import app
try:
    app({arguments!r})
except SystemExit as end:
    assert not end.code, end.code
heavy = {{"torch", "torchvision", "timm", "PIL", "numpy"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["--nonsense"], ["classify"], ["classify", "a.png", "--top", "x"]], ids=" ".join
)
def test_a_wrong_command_line_exits_with_2(internimage, arguments):
    got = internimage(*arguments)
    assert got.code == 2 and got.out == "" and got.err


def test_a_missing_extra_says_what_to_type(internimage, monkeypatch):
    monkeypatch.setattr(main.importlib.util, "find_spec", lambda name: None)
    for verb in ("train", "evaluate"):
        got = internimage(verb, "internimage_femto")
        assert got.code == 1 and "pip install 'internimage-torch[train]'" in got.err
        assert len(got.err.splitlines()) == 1


def test_debug_shows_where_an_error_comes_from(internimage, model):
    with pytest.raises(ValueError, match="stage is 9"):
        internimage("--debug", "explain", "-", "--model", model, "--stage", 9, stdin=_png())


def test_shell_completion_knows_the_verbs():
    script = "from internimage.cli.main import main; main()"
    environment = {"_INTERNIMAGE_COMPLETE": "complete_bash", "COMP_WORDS": "internimage cla", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv = ['internimage']; {script}"],
        env={**__import__("os").environ, **environment},
        capture_output=True,
        text=True,
    )
    assert "classify" in done.stdout.split()


def _png() -> bytes:
    import io

    from PIL import Image

    packed = io.BytesIO()
    Image.new("L", (32, 32)).save(packed, "PNG")
    return packed.getvalue()
