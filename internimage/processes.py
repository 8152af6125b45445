"""The processes of one training or evaluation: who this one is, and what they tell each other."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .devices import pick_device

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")  # of torchrun and accelerate launch
_SLURM = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
_SLURM_PORT = "29501"
_GONE = ("closed by peer", "reset by peer", "broken pipe", "remote process exited", "timed out", "timeout")
_PATIENCE = timedelta(hours=1)  # the others wait while the first process writes; for cards the default is ten minutes


@dataclass(frozen=True, kw_only=True)
class Processes:
    """One of ``world_size`` processes that run the same program, each on its ``device``.

    Methods are collective: every process calls them, in the same order.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes files and speaks to people."""
        return self.rank == 0

    @property
    def on_this_machine(self) -> int:
        """How many of them run on this machine, as torchrun and ``accelerate launch`` say; else all."""
        return min(self.world_size, int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size)))

    @property
    def own_cores(self) -> int | None:
        """The cores that SLURM gave to this process alone; None where processes share those of the machine."""
        if self.world_size == 1 or "LOCAL_WORLD_SIZE" in os.environ or "SLURM_CPUS_PER_TASK" not in os.environ:
            return None
        return int(os.environ["SLURM_CPUS_PER_TASK"])

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank; anything that can be pickled."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, on the CPU."""
        if self.world_size == 1:
            return tensor.detach().to("cpu", copy=True)
        tensor = tensor.detach().to(self.device, copy=True)
        dist.all_reduce(tensor)
        return tensor.cpu()

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag whether it is set in some process."""
        if self.world_size == 1:
            return flags
        return tuple(count > 0 for count in self.sum(torch.tensor([float(flag) for flag in flags])).tolist())

    def take_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors, which lie on the device, with those of the first process."""
        if self.world_size > 1:
            for tensor in tensors:
                contiguous = tensor.contiguous()  # other layouts are not broadcast
                dist.broadcast(contiguous, 0)
                tensor.copy_(contiguous)

    def wait(self) -> None:
        """Until all are here."""
        if self.world_size > 1:
            dist.barrier()


def started_processes(device: str | None = None) -> Processes:
    """Join the processes that torchrun, ``accelerate launch`` or SLURM has started; without them, a process alone.

    Args:
        device: "cpu", "cuda" or None for a card where there is one; with several cards each local process gets its own.

    Raises:
        ValueError: the variables of the launcher are incomplete, or there are more processes than cards on a machine.
    """
    place = _place()
    if place is None:
        return Processes(device=pick_device(device))
    rank, world_size, local_rank = place
    where = pick_device(device)
    if where.type == "cuda" and where.index is None:
        cards = torch.cuda.device_count()
        if local_rank >= cards:
            raise ValueError(
                f"process {local_rank} of this machine has no card: there are {cards}; start as many processes as "
                "cards, or pass --device cpu"
            )
        where = torch.device("cuda", local_rank)
        torch.cuda.set_device(where)
    if world_size > 1 and not dist.is_initialized():
        backend = "nccl" if where.type == "cuda" else "gloo"
        dist.init_process_group(backend, rank=rank, world_size=world_size, timeout=_PATIENCE)
    return Processes(rank=rank, world_size=world_size, local_rank=local_rank, device=where)


def join_alone(processes: Processes) -> None:
    """Where there is one process and no group, make one of it: engines that shard want a group whatever its size."""
    if processes.world_size == 1 and not dist.is_initialized():
        backend = "nccl" if processes.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def stop_processes() -> None:
    """Leave the group, so that no process waits for one that has ended."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def lost_others(error: RuntimeError) -> bool:
    """Whether an error says that another process no longer answers, which has said why itself."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return False
    return any(words in str(error).lower() for words in _GONE)


def launched() -> int:
    """How many processes there will be, also before they are joined."""
    place = _place()
    return 1 if place is None else place[1]


def is_first_process() -> bool:
    """Whether this is the process that speaks, also before the others are joined and after they have left."""
    place = _place()
    return place is None or place[0] == 0


def _place() -> tuple[int, int, int] | None:
    """Rank, number of processes and rank on this machine, or None where no launcher speaks."""
    environment = os.environ
    if "RANK" not in environment and "SLURM_PROCID" in environment and int(environment.get("SLURM_NTASKS", "1")) > 1:
        for ours, theirs in zip(_TORCHRUN, _SLURM, strict=True):
            environment[ours] = environment.get(theirs, "0")  # where libraries look
        environment.setdefault("MASTER_ADDR", first_host(environment.get("SLURM_NODELIST", "localhost")))
        environment.setdefault("MASTER_PORT", _SLURM_PORT)
    if "RANK" not in environment:
        return None
    missing = [name for name in (*_TORCHRUN, "MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if missing and environment.get("WORLD_SIZE", "1") != "1":
        raise ValueError(f"RANK is set, but not {', '.join(missing)}; start with torchrun or accelerate launch")
    rank, world_size, local_rank = (
        _number(environment.get(name, default), name) for name, default in zip(_TORCHRUN, "010", strict=True)
    )
    return rank, world_size, local_rank


def _number(value: str, name: str) -> int:
    if not value.isdecimal():
        raise ValueError(f"the variable {name} is {value!r}, expected a whole number, as torchrun sets it; or unset it")
    return int(value)


def first_host(nodes: str) -> str:
    """The first name of SLURM's list: "a[03-07,9],b1" is "a03"."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+))?", nodes)
    return "localhost" if match is None else match.group(1) + (match.group(2) or "")
