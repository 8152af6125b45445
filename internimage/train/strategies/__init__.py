"""One recipe on one process or on many: the engines that run it."""

from __future__ import annotations

from ...processes import Processes
from .base import STRATEGIES, Strategy

__all__ = ["STRATEGIES", "Strategy", "make_strategy"]


def make_strategy(name: str | None, processes: Processes, offload: bool = False, compile: bool = False) -> Strategy:
    """The engine of a name; None is "single" for one process and "ddp" for more.

    Args:
        offload: keep optimizer states (and the parameters, where the engine shards them) in the memory of the host.
        compile: ``torch.compile`` the model.

    Raises:
        ValueError: there is no such strategy, or it does not fit the number of processes or another argument.
    """
    name = name or ("single" if processes.world_size == 1 else "ddp")
    if name not in STRATEGIES:
        raise ValueError(f"strategy is {name!r}, expected one of {', '.join(STRATEGIES)}")
    if name == "single" and processes.world_size > 1:
        raise ValueError(f"strategy single is for one process, there are {processes.world_size}; try ddp")
    if offload and name in ("single", "ddp"):
        raise ValueError(f"strategy {name} cannot offload to the host; try fsdp2 or deepspeed-2")
    if name in ("single", "ddp"):
        from .accelerated import Accelerated

        return Accelerated(name, processes, compile=compile)
    if name == "fsdp2":
        from .fsdp2 import Fsdp2

        return Fsdp2(processes, offload=offload, compile=compile)
    from .zero import Zero

    return Zero(int(name[-1]), processes, offload=offload, compile=compile)
