"""The operator alone: DCNv3 on one thread of the CPU, at the shapes it has in InternImage, against its other forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ops import native
from ..ops.dcnv3 import reference
from ..ops.dispatch import BackendError
from ..ops.geometry import Geometry
from .forms import FORMS, GRID_SAMPLE_FORMS, OURS, TORCHVISION
from .gate import BOUNDS, require
from .memory import peak_allocation
from .timing import Candidate, best_times, one_thread
from .work import BOTH, FORWARD, Shape, corner_bytes, flops, tensor_bytes

SHAPES = (
    Shape(56, 56, 64, 4),  # the four levels of InternImage-T at 224x224,
    Shape(28, 28, 128, 8),
    Shape(14, 14, 256, 16),
    Shape(7, 7, 512, 32),
    Shape(200, 304, 64, 4),  # and at 800x1216
    Shape(100, 152, 128, 8),
    Shape(50, 76, 256, 16),
    Shape(25, 38, 512, 32),
)
QUICK_SHAPES = (Shape(14, 14, 64, 4), Shape(7, 7, 512, 32))
WANTED_SHAPES = (SHAPES[0], SHAPES[4])
WANTED = {FORWARD: 8.0, BOTH: 5.0}  # times faster than the faster of gs and gs4 at those shapes
SELDOM = ("reference", TORCHVISION)
OTHER_DTYPES = (torch.bfloat16, torch.float16, torch.float64)
INSTRUCTION_SETS = ("avx512", "avx2", "baseline")
OFF_GRID_LINES = 0.02  # px; on a grid line the offset gradient jumps, and forms may differ there without being wrong


@dataclass(frozen=True)
class Inputs:
    """Tensors of one call, and the gradient that comes back to it."""

    input: Tensor
    offset: Tensor
    mask: Tensor
    grad_output: Tensor
    groups: int

    def to(self, dtype: torch.dtype) -> Inputs:
        """The same, rounded to ``dtype``."""
        tensors = (self.input, self.offset, self.mask, self.grad_output)
        input, offset, mask, grad_output = (tensor.to(dtype) for tensor in tensors)
        return Inputs(input, offset, mask, grad_output, self.groups)


def make_inputs(shape: Shape, seed: int = 0) -> Inputs:
    """Float32; offsets of two pixels standard deviation, each its own, which is as scattered as sampling gets."""
    generator = torch.Generator().manual_seed(seed)
    pixels = (1, shape.height, shape.width)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*pixels, *sizes, generator=generator)

    offset = 2 * normal(2 * shape.groups * shape.taps)
    cell = offset.floor()
    offset = cell + (offset - cell).clamp(OFF_GRID_LINES, 1 - OFF_GRID_LINES)
    mask = normal(shape.groups, shape.taps).softmax(-1).flatten(-2)
    return Inputs(normal(shape.channels), offset, mask, normal(shape.channels), shape.groups)


def calls(form: Callable, inputs: Inputs) -> dict[str, Callable[[], Any]]:
    """What is timed: the output without gradients, and the three gradients with the output on the way."""

    def forward() -> Tensor:
        with torch.no_grad():
            return form(inputs.input, inputs.offset, inputs.mask, inputs.groups)

    def both() -> tuple[Tensor, ...]:
        leaves = [t.detach().requires_grad_() for t in (inputs.input, inputs.offset, inputs.mask)]
        return torch.autograd.grad(form(*leaves, inputs.groups), leaves, inputs.grad_output)

    return {FORWARD: forward, BOTH: both}


def exact(inputs: Inputs) -> tuple[Tensor, ...]:
    """Output and the gradients of input, offset and mask by the reference in float64, one group after the other."""
    tensors = [t.double().unflatten(-1, (inputs.groups, -1)) for t in vars(inputs).values() if isinstance(t, Tensor)]
    parts = []
    for group in range(inputs.groups):
        *arguments, grad_output = (tensor[..., group, :] for tensor in tensors)
        leaves = [argument.requires_grad_() for argument in arguments]
        output = reference.dcnv3(*leaves, Geometry())  # type: ignore[call-arg]
        parts.append((output.detach(), *torch.autograd.grad(output, leaves, grad_output)))
    return tuple(torch.cat(part, -1) for part in zip(*parts, strict=True))


def check(form: Callable, inputs: Inputs, want: tuple[Tensor, ...], what: str) -> float:
    """The largest relative error of output and gradients; ``want`` is what :func:`exact` gives.

    Raises:
        Disagreement: it is larger than the dtype's rounding explains.
    """
    run = calls(form, inputs)
    got = (run[FORWARD](), *run[BOTH]())
    names = ("output", "gradient of input", "gradient of offset", "gradient of mask")
    bound = BOUNDS[inputs.input.dtype]
    return max(require(f"{what}, {name}", g, w, bound) for name, g, w in zip(names, got, want, strict=True))


def run(quick: bool = False, progress: Callable[[str], None] = lambda line: None) -> list[dict[str, Any]]:
    """One row a shape and direction, as :func:`measure` gives them; ``quick`` takes two small shapes and less time."""
    if native.load_error():
        raise BackendError(f"there is nothing to time: {native.load_error()}")
    rows = []
    with one_thread():
        for shape in QUICK_SHAPES if quick else SHAPES:
            progress(f"dcnv3 {shape}")
            rows += measure(shape, seconds=0.05 if quick else 4.0)
    return rows


def measure(shape: Shape, seconds: float) -> list[dict[str, Any]]:
    """Check every form at this shape, then time them.

    Returns:
        For forward and for forward+backward: milliseconds by form, by instruction set and by dtype of ours, relative
        errors, and bytes allocated beyond the results.

    Raises:
        Disagreement: a form gives wrong numbers.
    """
    inputs = make_inputs(shape)
    others = {str(dtype).removeprefix("torch."): inputs.to(dtype) for dtype in OTHER_DTYPES}
    want = exact(inputs)
    errors = {name: check(form, inputs, want, f"{name} at {shape}") for name, form in FORMS.items()}
    for name, converted in others.items():
        errors[name] = check(FORMS[OURS], converted, exact(converted), f"{OURS} in {name} at {shape}")
    lower = available_instruction_sets()[1:]
    for name in lower:
        with instruction_set(name):
            errors[name] = check(FORMS[OURS], inputs, want, f"{OURS} with {name} at {shape}")
    return [_row(shape, direction, inputs, others, lower, errors, seconds) for direction in (FORWARD, BOTH)]


def _row(
    shape: Shape,
    direction: str,
    inputs: Inputs,
    others: dict[str, Inputs],
    lower: list[str],
    errors: dict[str, float],
    seconds: float,
) -> dict[str, Any]:
    run = {name: calls(form, inputs)[direction] for name, form in FORMS.items()}
    forms = [Candidate(name, call, seldom=name in SELDOM) for name, call in run.items()]
    variants = [Candidate(OURS, run[OURS])]
    variants += [Candidate(name, run[OURS], lambda name=name: instruction_set(name)) for name in lower]  # type: ignore[misc]
    variants += [Candidate(name, calls(FORMS[OURS], converted)[direction]) for name, converted in others.items()]
    ms = {name: 1e3 * best for name, best in best_times(forms, seconds).items()}
    variant_ms = {name: 1e3 * best for name, best in best_times(variants, seconds / 4).items() if name != OURS}
    return {
        "shape": str(shape),
        "direction": direction,
        "ms": ms,
        "variant_ms": variant_ms,
        "errors": errors,
        "wanted": WANTED[direction] if shape in WANTED_SHAPES else None,
        "extra_bytes": {name: extra_bytes(FORMS[name], inputs, direction) for name in (OURS, *GRID_SAMPLE_FORMS)},
        **speeds(shape, direction, ms),
    }


def speeds(shape: Shape, direction: str, ms: dict[str, float]) -> dict[str, float]:
    """How much faster ours is than the faster grid_sample form and than torchvision, and what it achieves."""
    seconds = ms[OURS] / 1e3
    return {
        "ratio": min(ms[name] for name in GRID_SAMPLE_FORMS) / ms[OURS],
        "ratio_to_torchvision": ms[TORCHVISION] / ms[OURS],
        "ratio_to_nearest": min(time for name, time in ms.items() if name != OURS) / ms[OURS],
        "gflops": flops(shape, direction) / seconds / 1e9,
        "gbytes_per_s": tensor_bytes(shape, direction) / seconds / 1e9,
        "corner_gbytes_per_s": corner_bytes(shape, direction) / seconds / 1e9,
    }


def extra_bytes(form: Callable, inputs: Inputs, direction: str) -> int:
    """Peak allocation beyond the output of the forward, or of the backward alone beyond the three gradients."""
    if direction == FORWARD:
        return peak_allocation(calls(form, inputs)[FORWARD]) - inputs.grad_output.nbytes
    leaves = [t.detach().requires_grad_() for t in (inputs.input, inputs.offset, inputs.mask)]
    output = form(*leaves, inputs.groups)
    peak = peak_allocation(lambda: torch.autograd.grad(output, leaves, inputs.grad_output))
    return peak - sum(leaf.nbytes for leaf in leaves)


def available_instruction_sets() -> list[str]:
    """Names of the ones this machine runs, the best first."""
    best = native.instruction_set()
    return list(INSTRUCTION_SETS[INSTRUCTION_SETS.index(best) :])


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """Our kernels use ``name`` inside."""
    before, choose = native.instruction_set(), native.library().internimage_set_instruction_set
    if not choose(name.encode()):
        raise ValueError(f"this machine does not run {name}; it has {', '.join(available_instruction_sets())}")
    try:
        yield
    finally:
        choose(before.encode())
