"""What this machine is, and what one of its threads can do at best: the ceilings that speeds are compared with."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from .._version import __version__
from ..ops import native
from .timing import Candidate, best_times, one_thread

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
_LIKELY_L2 = 2**20  # where the system does not say


@dataclass(frozen=True)
class Ceilings:
    """Measured on one thread: float32 matrix product; copies, whose reads and writes both count."""

    gflops: float
    memory_gbytes_per_s: float
    l2_gbytes_per_s: float


def describe() -> dict[str, object]:
    """The machine, as plain containers; the load average is the one of the last minute."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "caches": cache_sizes(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "instruction_set": None if native.load_error() else native.instruction_set(),
    }


def versions() -> dict[str, str]:
    """Of Python and the packages that matter; a package that is not there is left out."""
    found = {"internimage": __version__, "python": platform.python_version()}
    for name in ("torch", "torchvision", "timm"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of this source tree, ``+`` behind it when files differ; None outside a repository."""
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():  # an installed package inside somebody else's repository
        return None
    try:
        name = _git(here, "rev-parse", "--short", "HEAD")
        return name + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def cpu_name() -> str:
    """As the system calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cache_sizes() -> dict[str, int]:
    """Bytes of the data caches that core 0 sees, by level; empty where the system does not say."""
    sizes = {}
    for folder in sorted(_CACHES.glob("index*")):
        level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            sizes[f"L{level}"] = int(size[:-1]) * _UNITS[size[-1]] if size[-1] in _UNITS else int(size)
    return sizes


def measure_ceilings(quick: bool = False) -> Ceilings:
    """Run a large matrix product and two copies; ``quick`` makes them small and the figures rough."""
    seconds = 0.1 if quick else 1.0
    caches = cache_sizes()
    large = 2**26 if quick else min(max(2**28, caches.get("L3", 0)), 2**29)
    side = 512 if quick else 1536
    left, right = torch.randn(side, side), torch.randn(side, side)
    product = torch.empty(side, side)
    with one_thread():
        return Ceilings(
            gflops=2 * side**3 / _best(lambda: torch.mm(left, right, out=product), seconds) / 1e9,
            memory_gbytes_per_s=_copy_speed(large, seconds),
            l2_gbytes_per_s=_copy_speed(caches.get("L2", _LIKELY_L2) // 4, seconds),
        )


def _copy_speed(size: int, seconds: float) -> float:
    """GB/s of copying ``size`` bytes, so that twice as many are touched."""
    source, target = torch.ones(size // 4), torch.empty(size // 4)
    return 2 * size / _best(lambda: target.copy_(source), seconds) / 1e9


def _best(run: Callable[[], object], seconds: float) -> float:
    return best_times([Candidate("run", run)], seconds)["run"]
