"""What the benchmark knows of an operator: how its inputs are made, what is right, and which forms compute it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .shapes import Shape
from .work import BOTH, FORWARD

OURS, COMPILER = "ours", "torch.compile"
BACKENDS = {"cpu": "cpu", "cuda": "triton"}
"""Our kernel on each kind of device."""


@dataclass(frozen=True)
class Inputs:
    """One call: what has a gradient, in the order the operator takes it, the gradient that comes back, and the rest."""

    tensors: dict[str, Tensor]
    grad_output: Tensor
    fixed: Any

    def to(self, *args: Any) -> Inputs:
        """The same, rounded to a dtype or moved to a device."""
        moved = {name: tensor.to(*args) for name, tensor in self.tensors.items()}
        return Inputs(moved, self.grad_output.to(*args), self.fixed)


def _given(inputs: Inputs) -> tuple[Tensor, ...]:
    return tuple(inputs.tensors.values())


def _as_they_are(grads: tuple[Tensor, ...], inputs: Inputs) -> tuple[Tensor, ...]:
    return grads


@dataclass(frozen=True)
class Form:
    """One way to compute an operator: ``run(*tensors, fixed)``.

    ``arrange`` puts the tensors into the layout that the form takes, before anything is timed; ``restore`` puts the
    gradients back. ``peer`` is the package it comes from, which may be wrong or fail here; a ``seldom`` form is slow
    and gets few runs. ``why_not`` says what the form does not take.
    """

    run: Callable[..., Tensor]
    peer: str = ""
    seldom: bool = False
    arrange: Callable[[Inputs], tuple[Tensor, ...]] = _given
    restore: Callable[[tuple[Tensor, ...], Inputs], tuple[Tensor, ...]] = _as_they_are
    why_not: Callable[[Inputs], str] = lambda inputs: ""


@dataclass(frozen=True)
class Wanted:
    """At these shapes, how many times faster than the fastest plain PyTorch form we want to be, and aim at."""

    shapes: tuple[str, ...]
    direction: str
    times: float
    aim: float | None = None


@dataclass(frozen=True)
class Operator:
    """Everything :mod:`.op` needs of an operator.

    ``sets`` are named sets of shapes, the ``usual`` ones of a kind of device are run unless others are asked for;
    ``parse`` reads a shape that is written out. ``plain`` names the PyTorch forms; ``wanted`` is over their fastest.
    """

    name: str
    sets: Mapping[str, tuple[Shape, ...]]
    usual: Mapping[str, tuple[str, ...]]
    parse: Callable[[str], Shape | None]
    notation: str
    make: Callable[[Any], Inputs]
    exact: Callable[[Inputs], tuple[Tensor, ...]]
    forms: Callable[[str], Mapping[str, Form]]
    plain: tuple[str, ...]
    wanted: tuple[Wanted, ...] = field(default=())


def calls(form: Form, inputs: Inputs) -> dict[str, Callable[[], Any]]:
    """What is timed: the output without gradients, and the gradients with the output on the way."""
    tensors = form.arrange(inputs)

    def forward() -> Tensor:
        with torch.no_grad():
            return form.run(*tensors, inputs.fixed)

    def both() -> tuple[Tensor, ...]:
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        return torch.autograd.grad(form.run(*leaves, inputs.fixed), leaves, inputs.grad_output)

    return {FORWARD: forward, BOTH: both}


def results(form: Form, inputs: Inputs) -> tuple[Tensor, ...]:
    """Output and gradients of a form, in the layout of ``inputs``."""
    run = calls(form, inputs)
    return run[FORWARD](), *form.restore(run[BOTH](), inputs)


def in_float32(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The form on float32 copies where it is given a half type, in which it would round positions to whole pixels."""

    def form(*arguments: Any) -> Tensor:
        *tensors, fixed = arguments
        dtype = tensors[0].dtype
        if dtype not in (torch.float16, torch.bfloat16):
            return run(*arguments)
        return run(*(tensor.float() for tensor in tensors), fixed).to(dtype)

    return form


def compiled(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``run`` through torch.compile, made at the first call."""
    made: list[Callable[..., Tensor]] = []

    def form(*arguments) -> Tensor:
        if not made:
            torch.compiler.reset()  # earlier shapes count towards the limit behind which it would run eagerly
            made.append(torch.compile(run, dynamic=False, fullgraph=True))
        return made[0](*arguments)

    return form
