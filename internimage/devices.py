"""Where a model runs and in what numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or the accelerator of this machine, or the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device is None:
        return accelerator or torch.device("cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device is {device!r}, expected cpu, cuda, cuda:1, mps or the like") from error
    usable = ["cpu"] + ([accelerator.type] if accelerator else [])
    count = torch.accelerator.device_count() if accelerator else 0
    if chosen.type not in usable or (accelerator and chosen.type == accelerator.type and (chosen.index or 0) >= count):
        here = ", ".join(["cpu", *(f"{accelerator.type}:{i}" for i in range(count))] if accelerator else ["cpu"])
        raise ValueError(f"device {str(chosen)!r} is not on this machine; it has {here}")
    return chosen


def pick_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """The floating-point type asked for; None is float32.

    Raises:
        ValueError: it is none of ``DTYPES``.
    """
    chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype or torch.float32
    if chosen not in DTYPES.values():
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
    assert chosen is not None
    return chosen


def check_numbers(answer: Tensor, dtype: torch.dtype) -> None:
    """ValueError when what a model that computes in ``dtype`` gives is NaN or infinite; it says what to try."""
    if not answer.isfinite().all():
        hint = "the weights may be damaged" if dtype in (torch.float32, torch.float64) else "try float32"
        raise ValueError(f"the model gives no numbers in {str(dtype).removeprefix('torch.')}; {hint}")


def moved(batch: Any, device: torch.device | None) -> Any:
    """A batch on a device: tensors, in tuples, lists and dictionaries; None leaves it where it is."""
    if device is None:
        return batch
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: moved(value, device) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return type(batch)(moved(value, device) for value in batch)
    return batch
