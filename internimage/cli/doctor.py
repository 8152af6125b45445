"""``internimage doctor``."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from . import options

PACKAGES = ("torch", "torchvision", "numpy", "Pillow", "safetensors", "huggingface_hub", "typer", "rich")
OPTIONAL = ("timm", "accelerate", "tensorboard", "torchmetrics", "triton")
VARIABLES = (
    "INTERNIMAGE_BACKEND", "INTERNIMAGE_CACHE", "INTERNIMAGE_AUTOTUNE", "HF_HUB_OFFLINE", "HF_HOME", "HF_ENDPOINT",
    "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "TRITON_INTERPRET",
)  # fmt: skip


def doctor(json: options.Json = False) -> None:
    """Show versions, devices, and which backends of the operators run here, and why the others do not.

    Example: [bold]internimage doctor --json[/bold]
    """
    from .output import print_json

    findings = examine()
    if json:
        print_json(findings)
    else:
        _print(findings)


def examine() -> dict[str, Any]:
    """Everything the command shows, as plain containers."""
    import torch

    return {
        "versions": {
            "internimage": _internimage_version(),
            "python": platform.python_version(),
            **{name: _version(name) for name in (*PACKAGES, *OPTIONAL)},
        },
        "system": f"{platform.system()} {platform.machine()}",
        "devices": _devices(),
        "backends": _backends(),
        "picked": _picked(),
        "native_kernel": _native_kernel(),
        "threads": {"torch": torch.get_num_threads(), "processors": os.cpu_count()},
        "folders": _folders(),
        "embedded_model": _embedded_model(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _internimage_version() -> str:
    from .._version import __version__

    return __version__


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> list[dict[str, Any]]:
    """The CPU first, then every accelerator that PyTorch can use."""
    import torch

    devices: list[dict[str, Any]] = [{"device": "cpu", "name": platform.processor() or platform.machine()}]
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return devices
    for index in range(torch.accelerator.device_count()):
        entry: dict[str, Any] = {"device": f"{accelerator.type}:{index}", "name": accelerator.type}
        if accelerator.type == "cuda":
            properties = torch.cuda.get_device_properties(index)
            entry |= {"name": properties.name, "memory_mib": properties.total_memory // 2**20}
            entry["capability"] = f"{properties.major}.{properties.minor}"
        devices.append(entry)
    return devices


def _backends() -> dict[str, dict[str, list[str]]]:
    """For each kind of device here, each backend with its reasons to refuse float32 tensors on it."""
    from ..ops import available_backends

    return {kind: available_backends(kind) for kind in _kinds()}


def _kinds() -> list[str]:
    return list(dict.fromkeys(entry["device"].partition(":")[0] for entry in _devices()))


def _picked() -> dict[str, str]:
    """For each kind of device here, the backend that float32 tensors on it get, or why there is none."""
    import torch

    from ..ops.dcnv3.op import BACKENDS
    from ..ops.dispatch import BackendError, Call, choose

    picked = {}
    for kind in _kinds():
        call = Call("dcnv3", (1, 8, 8, 16), torch.float32, kind, 1, needs_grad=True)
        try:
            picked[kind] = choose(BACKENDS, call).name
        except BackendError as error:
            picked[kind] = str(error)
    return picked


def _native_kernel() -> dict[str, Any]:
    from ..ops import native

    error = native.load_error()
    return {"path": str(native.PATH), "error": error, "instruction_set": None if error else native.instruction_set()}


def _folders() -> dict[str, str]:
    from ..weights import cache_folder

    return {"package": str(Path(__file__).parents[1]), "downloads": str(cache_folder())}


def _embedded_model() -> dict[str, Any]:
    from ..classifier import EMBEDDED
    from ..models import embedded_weights
    from ..weights import read_card

    path = embedded_weights(EMBEDDED)
    if not path.is_file():
        return {"name": EMBEDDED, "error": f"{path} is missing"}
    card = read_card(path)
    return {"name": card.name, "mib": round(path.stat().st_size / 2**20, 2), "note": card.note, "scores": card.scores}


def _print(findings: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    from .output import printer, text

    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for title, lines in _lines(findings):
        for index, line in enumerate(lines):
            table.add_row(text("" if index else title), text(line))
        table.add_row()
    printer().print(table)


def _lines(findings: dict[str, Any]) -> list[tuple[str, list[str]]]:
    kernel, embedded = findings["native_kernel"], findings["embedded_model"]
    versions = [f"{name} {version or 'not installed'}" for name, version in findings["versions"].items()]
    devices = [
        f"{entry['device']}  {entry['name']}"
        + (f", {entry['memory_mib']} MiB, capability {entry['capability']}" if "memory_mib" in entry else "")
        for entry in findings["devices"]
    ]
    backends = [
        f"{'off' if reasons else 'on':<4} {name:<11} on {kind:<5} "
        + ("; ".join(reasons) or ("picked unless another is named" if findings["picked"][kind] == name else ""))
        for kind, by_name in findings["backends"].items()
        for name, reasons in by_name.items()
    ]
    backends += [reason for reason in findings["picked"].values() if "\n" in reason or " " in reason]
    kernel_line = kernel["error"] or f"runs with {kernel['instruction_set']}, {kernel['path']}"
    trained = ", ".join(f"{name} {score:g} %" for name, score in embedded.get("scores", {}).items())
    embedded_line = embedded.get("error") or f"{embedded['name']}, {embedded['mib']} MiB, {embedded['note']}"
    return [
        ("system", [f"{findings['system']}, Python {sys.version.split()[0]}"]),
        ("versions", [", ".join(versions[start : start + 4]) for start in range(0, len(versions), 4)]),
        ("devices", devices),
        ("backends", backends),
        ("native kernel", [kernel_line]),
        ("threads", [f"{findings['threads']['torch']} of PyTorch, {findings['threads']['processors']} processors"]),
        ("embedded model", [embedded_line + (f"; {trained}" if trained else "")]),
        ("folders", [f"{name}: {folder}" for name, folder in findings["folders"].items()]),
        ("environment", [f"{k}={v}" for k, v in findings["environment"].items()] or ["nothing that matters is set"]),
    ]
