"""Operators alone: every form is checked, then all are timed in turns at the shapes of real networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..ops import native, triton_backend
from ..ops.dispatch import BackendError, Call
from . import catalog, operators, peers, shapes
from .gate import BOUNDS, PEER_FACTOR, relative_error, require
from .memory import enough_for, peak_allocation
from .operators import OURS, Form, Inputs, Operator, calls, results
from .shapes import Shape
from .timing import Candidate, Clock, clock_of, figures, in_turns, threads
from .work import BOTH, FORWARD, corner_bytes, flops, tensor_bytes

OTHER_DTYPES = (torch.bfloat16, torch.float16, torch.float64)
INSTRUCTION_SETS = ("avx512", "avx2", "baseline")
SECONDS, QUICK_SECONDS = 3.0, 0.05  # of timing, for each shape and direction
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True)
class Setting:
    """How operators are run: where, in which dtype, and on how many threads of the CPU.

    ``peers`` maps each package of others to nothing, when it takes part, or to why it does not. ``variants`` are runs
    of ours in other dtypes and on lower instruction sets, on the CPU. Forms in ``skip`` are left out.
    """

    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    threads: int = 1
    seconds: float = SECONDS
    peers: Mapping[str, str] = field(default_factory=lambda: dict.fromkeys(peers.MODULES, "not asked for"))
    variants: bool = True
    skip: tuple[str, ...] = ()
    clock: Clock | None = None

    def make_clock(self) -> Clock:
        """The one given, or that of the device."""
        return self.clock or clock_of(self.device)


def run(
    names: Sequence[str],
    words: Sequence[str],
    setting: Setting,
    quick: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Rows of :func:`measure` for each operator of ``names`` (all when there is none) and each shape.

    Args:
        words: sets of shapes and shapes; none is the usual ones of the device, or with ``quick`` two small ones.

    Raises:
        ValueError: there is no such operator, or a word is no shape of it.
        BackendError: our kernel does not run here.
    """
    plan = [(operator, shape) for operator in chosen(names) for shape in chosen_shapes(operator, words, setting, quick)]
    require_kernel(setting.device)
    rows = []
    with threads(setting.threads):
        for operator, shape in plan:
            progress(f"{operator.name} {shape}")
            with enough_for(f"{operator.name} at {shape}"):
                rows += measure(operator, shape, setting)
    return rows


def chosen(names: Sequence[str]) -> list[Operator]:
    """The operators of these names, all when there is none."""
    known = catalog.OPERATORS
    for name in names:
        if name not in known:
            raise ValueError(f"there is no operator {name!r}; expected some of {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names or known)]


def chosen_shapes(operator: Operator, words: Sequence[str], setting: Setting, quick: bool) -> tuple[Shape, ...]:
    """What ``words`` name, or the usual shapes of the operator on this kind of device."""
    usual = ["quick"] if quick else operator.usual[setting.device.type]
    return shapes.choose(words or usual, operator.name, operator.sets, operator.parse, operator.notation)


def require_kernel(device: torch.device) -> None:
    """BackendError when the kernel that would be timed on ``device`` does not run."""
    if device.type not in operators.BACKENDS:
        raise ValueError(f"--device {device} cannot be timed; expected cpu or cuda")
    if device.type == "cpu":
        reason = native.load_error() or ""
    else:
        call = Call("dcnv3", (1, 8, 8, 16), torch.float32, device.type, 1, needs_grad=False)
        reason = "; ".join(triton_backend.why_not(call))
    if reason:
        raise BackendError(f"there is nothing to time: {reason}")


def measure(operator: Operator, shape: Shape, setting: Setting) -> list[dict[str, Any]]:
    """Check every form at this shape, then time them.

    Returns:
        A row for forward and one for forward+backward; docs/benchmarks.md says what stands in it.

    Raises:
        Disagreement: a form of this project gives wrong numbers. One of another package is left out, with its error.
    """
    inputs = operator.make(shape).to(setting.device).to(setting.dtype)
    forms, left_out = present(operator, inputs, setting)
    want = operator.exact(inputs)
    errors = {}
    for name, form in forms.items():
        what = f"{operator.name} {name} at {shape}"
        if not form.peer:
            errors[name] = check(form, inputs, want, what)
            continue
        reason, errors[name] = check_peer(form, inputs, want)
        if reason:
            left_out[name] = reason
    forms = {name: form for name, form in forms.items() if name not in left_out}
    variants = checked_variants(operator, shape, inputs, want, errors) if _has_variants(setting) else []
    about = {"operator": operator.name, "shape": str(shape), "dtype": _name(setting.dtype), "left_out": left_out}
    return [
        {**about, "direction": direction, **_figures(direction, shape, forms, inputs, variants, errors, setting)}
        for direction in (FORWARD, BOTH)
    ]


def present(operator: Operator, inputs: Inputs, setting: Setting) -> tuple[dict[str, Form], dict[str, str]]:
    """The forms that take these inputs here, and why each other one is left out."""
    forms, left_out = {}, {}
    for name, form in operator.forms(setting.device.type).items():
        reason = "not asked for" if name in setting.skip else setting.peers.get(form.peer, "") if form.peer else ""
        reason = reason or form.why_not(inputs)
        if reason:
            left_out[name] = reason
        else:
            forms[name] = form
    return forms, left_out


def check(form: Form, inputs: Inputs, want: tuple[Tensor, ...], what: str) -> float:
    """The largest relative error of output and gradients; ``want`` is what the operator's ``exact`` gives.

    Raises:
        Disagreement: it is larger than the dtype's rounding explains.
    """
    names = ("output", *(f"gradient of {name}" for name in inputs.tensors))
    bound = BOUNDS[inputs.grad_output.dtype]
    pairs = zip(names, results(form, inputs), want, strict=True)
    return max(require(f"{what}, {name}", got, right, bound) for name, got, right in pairs)


def check_peer(form: Form, inputs: Inputs, want: tuple[Tensor, ...]) -> tuple[str, float]:
    """Why the numbers of another package are not timed, or nothing, and their largest relative error."""
    try:
        error = max(relative_error(got, right) for got, right in zip(results(form, inputs), want, strict=True))
    except Exception as failure:  # theirs to raise whatever they like
        return f"fails ({type(failure).__name__}: {(str(failure).strip().splitlines() or [''])[0]})", float("nan")
    bound = PEER_FACTOR * BOUNDS[inputs.grad_output.dtype]
    return (f"wrong here: relative error {error:.2g}, allowed {bound:g}" if not error <= bound else ""), error


def _has_variants(setting: Setting) -> bool:
    return setting.variants and setting.device.type == "cpu" and setting.dtype == torch.float32


def checked_variants(
    operator: Operator, shape: Shape, inputs: Inputs, want: tuple[Tensor, ...], errors: dict[str, float]
) -> list[tuple[str, Inputs, str | None]]:
    """Ours in other dtypes and on lower instruction sets: name, inputs, instruction set; their errors are noted."""
    ours = operator.forms("cpu")[OURS]
    found: list[tuple[str, Inputs, str | None]] = [
        *((name, inputs, name) for name in available_instruction_sets()[1:]),
        *((_name(dtype), inputs.to(dtype), None) for dtype in OTHER_DTYPES),
    ]
    for name, given, level in found:
        right = want if given is inputs else operator.exact(given)
        with instruction_set(level or available_instruction_sets()[0]):
            errors[name] = check(ours, given, right, f"{operator.name} {OURS} in {name} at {shape}")
    return found


def _figures(
    direction: str,
    shape: Shape,
    forms: dict[str, Form],
    inputs: Inputs,
    variants: list[tuple[str, Inputs, str | None]],
    errors: dict[str, float],
    setting: Setting,
) -> dict[str, Any]:
    clock = setting.make_clock()
    run = {name: calls(form, inputs)[direction] for name, form in forms.items()}
    candidates = [Candidate(name, call, seldom=forms[name].seldom) for name, call in run.items()]
    timed = in_turns(candidates, setting.seconds, clock=clock)
    others = [Candidate(OURS, run[OURS])]
    for name, given, level in variants:
        around = (lambda level=level: instruction_set(level)) if level else Candidate.around
        others.append(Candidate(name, calls(forms[OURS], given)[direction], around))
    timed_others = in_turns(others, setting.seconds / 3, clock=clock) if variants else {}
    extra = {name: extra_bytes(form, inputs, direction) for name, form in forms.items() if not form.seldom}
    figures_of = {
        name: {**dataclasses.asdict(figures(samples)), "error": errors[name], "extra_bytes": extra.get(name)}
        for name, samples in timed.items()
    }
    best = figures_of[OURS][statistic(setting.device)]
    return {
        "forms": figures_of,
        "variants": {
            name: {**dataclasses.asdict(figures(samples)), "error": errors[name]}
            for name, samples in timed_others.items()
            if name != OURS
        },
        **achieved(shape, direction, best / 1e3, inputs.grad_output.element_size()),
    }


def statistic(device: torch.device) -> str:
    """Which figure of a form is compared: on the CPU the least, since a shared machine only adds; else the median."""
    return "median_ms" if device.type == "cuda" else "min_ms"


def achieved(shape: Shape, direction: str, seconds: float, itemsize: int) -> dict[str, Any]:
    """The work of a call of ours, and what that is a second."""
    work = {
        "flop": flops(shape.work, direction),
        "tensor_bytes": tensor_bytes(shape.work, direction, itemsize),
        "corner_bytes": corner_bytes(shape.work, direction, itemsize),
    }
    return {
        **work,
        "gflops": work["flop"] / seconds / 1e9,
        "gbytes_per_s": work["tensor_bytes"] / seconds / 1e9,
        "corner_gbytes_per_s": work["corner_bytes"] / seconds / 1e9,
    }


def extra_bytes(form: Form, inputs: Inputs, direction: str) -> int:
    """Peak allocation beyond the output of the forward, or of the backward alone beyond the gradients."""
    device = inputs.grad_output.device
    if direction == FORWARD:
        return peak_allocation(calls(form, inputs)[FORWARD], device) - inputs.grad_output.nbytes
    leaves = [tensor.detach().requires_grad_() for tensor in form.arrange(inputs)]
    output = form.run(*leaves, inputs.fixed)
    peak = peak_allocation(lambda: torch.autograd.grad(output, leaves, inputs.grad_output), device)
    return peak - sum(leaf.nbytes for leaf in leaves)


def available_instruction_sets() -> list[str]:
    """Names of the ones this machine runs, the best first."""
    best = native.instruction_set()
    lower = INSTRUCTION_SETS[INSTRUCTION_SETS.index(best) + 1 :] if best in INSTRUCTION_SETS else INSTRUCTION_SETS
    return [best, *lower]


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


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
