"""What this machine is, and what it can do at best: the ceilings that speeds are compared with."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from .._version import __version__
from ..ops import native
from .timing import Clock, best_seconds, cpu_clock, cuda_clock, threads

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
CPU = torch.device("cpu")
_LIKELY_L2 = 2**20  # where the system does not say


@dataclass(frozen=True)
class Ceilings:
    """Measured: a matrix product in ``dtype``; copies, whose reads and writes both count."""

    dtype: str
    gflops: float
    memory_gbytes_per_s: float
    l2_gbytes_per_s: float


def describe(device: torch.device = CPU) -> dict[str, object]:
    """The machine, as plain containers; the load average is the one of the last minute."""
    return {
        "device": describe_card(device) if device.type == "cuda" else None,
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "caches": cache_sizes(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "instruction_set": None if native.load_error() else native.instruction_set(),
    }


def describe_card(device: torch.device) -> dict[str, object]:
    """What a card is, and its driver where the tool that comes with it says."""
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
        "l2_bytes": getattr(properties, "L2_cache_size", None),
        "driver": _driver(),
        "cuda": torch.version.cuda,
    }


def _driver() -> str | None:
    line = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(line, check=True, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return (done.stdout.strip().splitlines() or [None])[0]  # type: ignore[list-item]


def versions() -> dict[str, str]:
    """Of Python and the packages that matter; a package that is not there is left out."""
    found = {"internimage": __version__, "python": platform.python_version()}
    for name in ("torch", "triton", "torchvision", "timm"):
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


def source_digest() -> str:
    """Twelve letters that change with any source file of the package, also where there is no repository."""
    here = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(here.rglob("*")):
        if path.suffix in (".py", ".cpp", ".h"):
            digest.update(str(path.relative_to(here)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


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


def measure_ceilings(
    quick: bool = False, device: torch.device = CPU, dtype: torch.dtype = torch.float32, thread_count: int = 1
) -> Ceilings:
    """Run a large matrix product and two copies; ``quick`` makes them small and the figures rough."""
    on_card = device.type == "cuda"
    seconds = 0.1 if quick else 1.0
    side = 512 if quick else 8192 if on_card else 1536
    left, right, product = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(3))
    clock = cuda_clock(device, flush=False) if on_card else cpu_clock
    with threads(thread_count):
        return Ceilings(
            dtype=str(dtype).removeprefix("torch."),
            gflops=2 * side**3 / best_seconds(lambda: torch.mm(left, right, out=product), seconds, clock) / 1e9,
            memory_gbytes_per_s=_copy_speed(_beyond_caches(quick, on_card), seconds, device, clock),
            l2_gbytes_per_s=_copy_speed(_l2_size(device) // 4, seconds, device, clock),
        )


def best_of(first: Ceilings, second: Ceilings) -> Ceilings:
    """The higher of two measurements: other work on the machine only ever lowers them."""
    return Ceilings(
        first.dtype,
        max(first.gflops, second.gflops),
        max(first.memory_gbytes_per_s, second.memory_gbytes_per_s),
        max(first.l2_gbytes_per_s, second.l2_gbytes_per_s),
    )


def _beyond_caches(quick: bool, on_card: bool) -> int:
    """Bytes that no cache holds."""
    if on_card:
        return 2**30
    return 2**26 if quick else min(max(2**28, cache_sizes().get("L3", 0)), 2**29)


def _l2_size(device: torch.device) -> int:
    if device.type == "cuda":
        return getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0) or 2**24
    return cache_sizes().get("L2", _LIKELY_L2)


def _copy_speed(size: int, seconds: float, device: torch.device, clock: Clock) -> float:
    """GB/s of copying ``size`` bytes, so that twice as many are touched."""
    source, target = (torch.ones(size // 4, device=device) for _ in range(2))
    return 2 * size / best_seconds(lambda: target.copy_(source), seconds, clock) / 1e9
