"""What runs on this machine, and why the rest does not."""

from __future__ import annotations

import torch

from .dcnv3 import op as dcnv3_op
from .dispatch import Call


def available_backends(device: str | torch.device | None = None) -> dict[str, list[str]]:
    """Each backend's name with its reasons to refuse float32 inputs on ``device``; an empty list means it runs.

    Args:
        device: where the tensors would be; the default is the current accelerator, else the CPU.
    """
    if device is None:
        device = (torch.accelerator.is_available() and torch.accelerator.current_accelerator()) or "cpu"
    call = Call("dcnv3", (1, 8, 8, 16), torch.float32, torch.device(device).type, 1, needs_grad=True)
    return {backend.name: backend.why_not(call) for backend in dcnv3_op.BACKENDS}
