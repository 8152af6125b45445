"""The ways to run a network that are timed: eager, compiled, recorded, and as a training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .labels import COMPILED, GRAPH, VARIANTS
from .networks import Network
from .timing import Candidate, Clock

WARM = 4  # runs of a compiled network before it is timed


@dataclass(frozen=True)
class Setting:
    """How networks are run.

    ``dtype`` other than float32 is autocast on the CPU and in training; on a card networks are converted for inference.
    ``peers`` are names of timm. ``compiled`` adds a compiled run of each network, ``graphs`` one that is
    replayed from a CUDA graph.
    """

    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    threads: int = 1
    peers: tuple[str, ...] = ()
    train: bool = False
    compiled: bool = False
    graphs: bool = False
    variants: tuple[str, ...] = VARIANTS
    pairs: int | None = None
    clock: Clock | None = None


def converts(setting: Setting) -> bool:
    """Whether weights are converted, not cast at every call."""
    return setting.dtype is torch.float64 or (setting.device.type == "cuda" and not setting.train)


def precision(setting: Setting) -> str:
    """How the dtype is reached, in words."""
    if setting.dtype is torch.float32:
        return "float32"
    return f"weights in {name_of(setting.dtype)}" if converts(setting) else f"{name_of(setting.dtype)} autocast"


def autocast(setting: Setting) -> AbstractContextManager:
    """The precision that surrounds a run."""
    if setting.dtype is torch.float32 or converts(setting):
        return nullcontext()
    return torch.autocast(setting.device.type, setting.dtype)


@contextmanager
def inference(setting: Setting) -> Iterator[None]:
    """Around what is run without gradients."""
    with torch.inference_mode(), autocast(setting):
        yield


def candidates(network: Network, image: Tensor, setting: Setting) -> list[Candidate]:
    """The eager run, and the compiled and the recorded one where they are asked for."""
    modules: dict[str, Callable[[Tensor], Any]] = {network.label: network.module}
    if setting.compiled and not network.variant:
        mode = "reduce-overhead" if setting.device.type == "cuda" else None
        modules[f"{network.label} {COMPILED}"] = torch.compile(network.module, fullgraph=True, mode=mode)
    if setting.train:
        return [_training(label, module, network, image, setting) for label, module in modules.items()]
    image = image.to(setting.dtype) if converts(setting) else image
    around = _both(network.around, lambda: inference(setting))
    runs: dict[str, Callable[[], object]] = {}
    for label, module in modules.items():
        runs[label] = lambda module=module: module(image)  # type: ignore[misc]
    if setting.graphs and not network.variant:
        runs[f"{network.label} {GRAPH}"] = _recorded(network.module, image, setting)
    return [Candidate(label, run, around, warm=1 if label == network.label else WARM) for label, run in runs.items()]


def _recorded(module: nn.Module, image: Tensor, setting: Setting) -> Callable[[], object]:
    """The network on this image as a CUDA graph, which costs the host nothing but its replay."""
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream(setting.device)
    with torch.cuda.device(setting.device), inference(setting):
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                module(image)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            output = module(image)

    def replay() -> object:
        graph.replay()
        return output

    return replay


def _training(
    label: str, module: Callable[[Tensor], Any], network: Network, image: Tensor, setting: Setting
) -> Candidate:
    """Forward, cross-entropy, backward, and a step of AdamW on weights of its own."""
    target = torch.zeros(len(image), dtype=torch.long, device=image.device)
    parameters = list(network.module.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=setting.device.type == "cuda")

    def step() -> Tensor:
        network.module.train()
        with autocast(setting):
            loss = F.cross_entropy(module(image).float(), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return Candidate(label, step, network.around, warm=1 if label == network.label else WARM)


def _both(*contexts: Callable[[], AbstractContextManager]) -> Callable[[], AbstractContextManager]:
    @contextmanager
    def around() -> Iterator[None]:
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context())
            yield

    return around


def name_of(dtype: torch.dtype) -> str:
    """As it is written in results."""
    return str(dtype).removeprefix("torch.")
