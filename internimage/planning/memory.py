"""How much memory a training step takes, without taking it: the estimate behind ``internimage plan``.

Nothing is calibrated. The step runs on fake tensors, which have shapes and no contents, and what PyTorch would hold is
counted as it is made and freed. So the estimate knows every network that PyTorch runs. What it does not see: memory of
libraries past PyTorch's allocator, the gaps in the allocator's blocks, and the CUDA context (half a gigabyte or so).
"""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True, kw_only=True)
class Step:
    """Forward and backward pass of one micro-batch in one process.

    Attributes:
        batch_size: images of the micro-batch.
        image_size: their sides, in pixels.
        dtype: "float32", or "bfloat16" or "float16": what is computed in.
        checkpointing: whether blocks keep their inputs only.
        device: "cuda" or "cpu", whose autocast is meant: that of a card computes norms in float32.
        whole: weights are cast once for a whole block, as fsdp2 does, in place of autocast.
    """

    batch_size: int
    image_size: int
    dtype: str = "float32"
    checkpointing: bool = False
    device: str = "cuda"
    whole: bool = False


@dataclass(frozen=True)
class Peak:
    """Bytes at most above weights and input.

    Attributes:
        fresh: gradients included that the backward pass makes on its way, as in a first micro-batch.
        without_gradients: those of the parameters left out.
    """

    fresh: int
    without_gradients: int


def step_peak(model: nn.Module, step: Step) -> Peak:
    """What a step holds at most.

    Args:
        model: on the meta device, its kernels chosen with ``backend="cpu"``; it takes (N, in_chans, H, W). Afterwards
            it is of no use.
    """
    stored = getattr(torch, step.dtype) if step.whole else torch.float32
    if step.checkpointing:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
    model.train()
    if step.device == "cuda" and step.dtype != "float32" and not step.whole:
        _norms_in_float32(model)
    with FakeTensorMode():
        model._apply(lambda t: torch.empty(t.shape, dtype=stored if t.is_floating_point() else t.dtype))
        image = torch.empty(step.batch_size, getattr(model, "in_chans", 3), step.image_size, step.image_size)
        image = image.to(stored)
        with _Held((*model.parameters(), *model.buffers(), image)) as held:
            for parameter in filter(lambda p: p.requires_grad, model.parameters()):
                parameter.register_post_accumulate_grad_hook(held.count_gradient)
            with _autocast(step):
                loss = _loss(model(image))
            torch.autograd.backward(loss)
    return Peak(held.peak, held.peak_without_gradients)


def _loss(output: Tensor) -> Tensor:
    """Stands for any loss: of a classifier's logits all are small."""
    return output.float().logsumexp(-1).mean()


def _autocast(step: Step) -> AbstractContextManager:
    """That of the CPU, which fake tensors are on."""
    if step.dtype == "float32" or step.whole:
        return nullcontext()
    return torch.autocast("cpu", getattr(torch, step.dtype))


def _norms_in_float32(model: nn.Module) -> None:
    """What autocast does on a card and not on the CPU, as far as these networks are concerned."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_pre_hook(lambda _, inputs: tuple(tensor.float() for tensor in inputs))


class _Held(TorchDispatchMode):
    """Counts the bytes of the storages that operators return while these live; those of ``known`` do not count."""

    def __init__(self, known: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.held = self.gradients = self.peak = self.peak_without_gradients = 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        self.peak = max(self.peak, self.held)
        self.peak_without_gradients = max(self.peak_without_gradients, self.held - self.gradients)
        return result

    def count_gradient(self, parameter: Tensor) -> None:
        """From now on the gradient of ``parameter`` is one; before it was a result like any other."""
        assert parameter.grad is not None
        self.gradients += parameter.grad.untyped_storage().nbytes()

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen:
            self._seen.add(key)
            self.held += size
            weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.held -= size
