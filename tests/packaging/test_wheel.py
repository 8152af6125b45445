"""The wheel: one for every Python and torch, built by setuptools alone, with or without a compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from internimage import __version__
from internimage.ops import native
from tests.tolerances import IMPORT_SECONDS

REPOSITORY = Path(__file__).parents[2]
NOT_IN_A_CLONE = shutil.ignore_patterns("__pycache__", "_kernels.*", "*.egg-info")
COMPILER = shutil.which(os.environ.get("CXX", "c++"))
IN_CI = os.environ.get("CI") == "true" or os.environ.get("INTERNIMAGE_REQUIRE_KERNEL") == "1"
needs_compiler = pytest.mark.skipif(COMPILER is None and not IN_CI, reason="no C++ compiler on this machine")

FORWARD = """
import torch
from internimage.ops import dcnv3
x, offset, mask = torch.randn(1, 5, 6, 8), torch.zeros(1, 5, 6, 2 * 9 * 2), torch.full((1, 5, 6, 2 * 9), 1 / 9)
for _ in range(2):
    out = dcnv3(x, offset, mask, groups=2)
box = torch.nn.functional.avg_pool2d(x.permute(0, 3, 1, 2), 3, stride=1, padding=1).permute(0, 2, 3, 1)
assert torch.allclose(out, box, atol=1e-6), "zero offsets and a uniform mask are a box filter"
"""


def copy_sources(folder: Path) -> Path:
    """What a clone holds of the package, so that no test builds inside this one."""
    folder.mkdir()
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder)
    shutil.copytree(REPOSITORY / "internimage", folder / "internimage", ignore=NOT_IN_A_CLONE)
    return folder


def pip_wheel(sources: Path, **environment: str) -> subprocess.CompletedProcess:
    """``pip wheel`` into ``sources/dist``; no isolation, so that it needs no network."""
    command = ["-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", "dist"]
    return run(command, cwd=sources, check=False, **environment)


def install(wheel: Path, folder: Path) -> Path:
    run(["-m", "pip", "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel)], cwd=folder.parent)
    return folder


def run(arguments: list[str], cwd: Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess:
    """This Python with ``arguments``, its output kept; a failure shows all of it."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONWARNINGS": "default", **environment},
        capture_output=True,
        text=True,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    sources = copy_sources(tmp_path_factory.mktemp("wheel") / "sources")
    built = pip_wheel(sources)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (sources / "dist").iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    return install(wheel, tmp_path_factory.mktemp("site") / "packages")


@pytest.mark.skipif(not IN_CI, reason="the kernel may be missing on a machine without a compiler, not in CI")
def test_kernel_is_there_in_ci():
    assert native.load_error() is None


def test_one_wheel_fits_every_python(wheel):
    name, version, python, abi, platform = wheel.stem.split("-")
    assert (name, version, python, abi) == ("internimage_torch", __version__, "py3", "none")
    assert platform != "any"


def test_wheel_holds_what_runs_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "internimage/py.typed" in names
    assets = (path for path in (REPOSITORY / "internimage" / "assets").rglob("*") if path.is_file())
    for path in assets:
        if "__pycache__" not in path.parts:
            assert path.relative_to(REPOSITORY).as_posix() in names
    allowed = ("internimage/", f"internimage_torch-{__version__}.dist-info/")
    assert [name for name in names if not name.startswith(allowed)] == []
    assert [name for name in names if name.endswith((".cpp", ".h", ".pyc"))] == []


@needs_compiler
def test_wheel_holds_the_kernel(wheel):
    assert f"internimage/ops/native/{native.PATH.name}" in zipfile.ZipFile(wheel).namelist()


def test_wheel_brings_the_command(wheel):
    archive = zipfile.ZipFile(wheel)
    (entry_points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
    assert "internimage = internimage.cli.main:main" in archive.read(entry_points).decode()


def test_sdist_holds_all_that_a_build_needs(tmp_path):
    sources = copy_sources(tmp_path / "sources")
    run(["-c", "from setuptools import build_meta; build_meta.build_sdist('.')"], cwd=sources)
    (archive,) = sources.glob("*.tar.gz")
    names = {name.partition("/")[2] for name in tarfile.open(archive).getnames()}
    kernels = {path.relative_to(sources).as_posix() for path in (sources / "internimage/ops/native").glob("*.[ch]*")}
    assert kernels and kernels <= names
    assert {"setup.py", "pyproject.toml", "internimage/py.typed"} <= names


@needs_compiler
def test_installed_wheel_runs_its_kernel(installed, tmp_path):
    script = f"""
import internimage, pathlib
assert pathlib.Path(internimage.__file__).is_relative_to({str(installed)!r}), internimage.__file__
from internimage.ops import native
assert native.load_error() is None, native.load_error()
{FORWARD}
"""
    done = run(["-c", script], cwd=tmp_path, PYTHONPATH=str(installed))
    assert done.stderr == "", "the fast path has nothing to say"


def test_import_is_light(installed, tmp_path):
    script = """
import sys, time
import torch, torchvision
before, libraries = set(sys.modules), []
sys.addaudithook(lambda event, arguments: libraries.append(str(arguments[0])) if event == "ctypes.dlopen" else None)
start = time.perf_counter()
import internimage
seconds = time.perf_counter() - start
heavy = {"timm", "triton", "torch._dynamo", "torch._inductor"} & (set(sys.modules) - before)
assert not heavy, heavy
assert not [path for path in libraries if "_kernels" in path], libraries
print(seconds)
"""
    runs = [run(["-c", script], cwd=tmp_path, PYTHONPATH=str(installed)) for _ in range(3)]
    assert min(float(done.stdout) for done in runs) < IMPORT_SECONDS


def test_without_a_compiler_it_installs_and_says_so_once(tmp_path):
    sources = copy_sources(tmp_path / "sources")
    built = pip_wheel(sources, CC="/nonexistent/cc", CXX="/nonexistent/c++", INTERNIMAGE_REQUIRE_KERNEL="0")
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = (sources / "dist").iterdir()
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(native.SUFFIX)]

    site = install(wheel, tmp_path / "site")
    done = run(["-c", FORWARD], cwd=tmp_path, PYTHONPATH=str(site))
    (line,) = done.stderr.splitlines()
    assert "slower" in line and "C++ compiler" in line


def test_a_required_kernel_fails_the_build(tmp_path):
    sources = copy_sources(tmp_path / "sources")
    built = pip_wheel(sources, CC="/nonexistent/cc", CXX="/nonexistent/c++", INTERNIMAGE_REQUIRE_KERNEL="1")
    assert built.returncode != 0
    assert "/nonexistent/c++" in built.stdout + built.stderr


@needs_compiler
@pytest.mark.slow
def test_editable_builds_put_the_kernel_beside_its_loader(tmp_path):
    sources = copy_sources(tmp_path / "sources")
    run(["setup.py", "build_ext", "--inplace"], cwd=sources)
    script = "from internimage.ops import native; print(native.PATH, native.load_error())"
    done = run(["-c", script], cwd=sources)
    assert done.stdout.split() == [str(sources / "internimage/ops/native" / native.PATH.name), "None"]


def test_editable_builds_that_fail_leave_no_older_kernel(tmp_path):
    sources = copy_sources(tmp_path / "sources")
    stale = sources / "internimage/ops/native" / native.PATH.name
    stale.write_bytes(b"compiled from older sources")
    compiler = {"CC": "/nonexistent/cc", "CXX": "/nonexistent/c++", "INTERNIMAGE_REQUIRE_KERNEL": "0"}
    done = run(["setup.py", "build_ext", "--inplace"], cwd=sources, **compiler)
    assert "installing without the C++ kernels" in done.stderr
    assert not stale.exists()
