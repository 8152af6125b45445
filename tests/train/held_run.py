"""What a test starts on two processes to see what each holds: ``torchrun -m tests.train.held_run FOLDER JSON``."""

from __future__ import annotations

import gc
import json
import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from internimage.bench.memory import peak_allocation
from internimage.data.order import Share
from internimage.models import create_model
from internimage.processes import started_processes, stop_processes
from internimage.train.checkpoint import Checkpoints
from internimage.train.loop import train_step
from internimage.train.state import new_state
from internimage.train.strategies import make_strategy

from .spread_run import Noise, recipe

STEPS = 6


class Sized(Noise):
    """A network as the request says."""

    def __init__(self, request: dict) -> None:
        super().__init__()
        self.request = request

    def make_model(self) -> nn.Module:
        changes = {name: tuple(value) if isinstance(value, list) else value for name, value in self.request["changes"]}
        return create_model(self.request["model"], num_classes=self.request["num_classes"], **changes)


def bytes_held() -> int:
    """By all tensors of this process."""
    gc.collect()
    held: dict[int, int] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # looking at an object may wake what warns
        for each in gc.get_objects():
            if isinstance(each, Tensor):
                each = getattr(each, "_local_tensor", each)
                if each.device.type == "cpu":
                    held[each.untyped_storage().data_ptr()] = each.untyped_storage().nbytes()
    return sum(held.values())


def most_held(folder: Path, request: dict) -> int:
    """Bytes that this process holds at most in a step, once its states are there.

    The least of some steps: threads of gloo give a buffer back when they come to it, at times long after it was used.
    """
    before, processes = bytes_held(), started_processes("cpu")
    strategy = make_strategy(request["strategy"], processes, offload=request["offload"])
    state = new_state(Sized(request), recipe(dtype=request["dtype"]), strategy)
    share = Share(processes.rank, processes.world_size, request["accumulation"])
    size, side = share.micro_batch_size(request["batch_size"]), request["image_size"]
    batch = (torch.randn(size, 3, side, side), torch.zeros(size, dtype=torch.int64))

    def step() -> None:
        train_step(state, [batch] * share.accumulation, share, Checkpoints(folder))

    step()
    step()
    return bytes_held() - before + min(peak_allocation(step) for _ in range(STEPS))


if __name__ == "__main__":
    torch.set_num_threads(1)
    where, what = Path(sys.argv[1]), json.loads(sys.argv[2])
    most = most_held(where, what)
    (where / f"{started_processes('cpu').rank}.json").write_text(str(most))
    stop_processes()
