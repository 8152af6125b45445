"""Which backend runs a call: a backend is a name, its reasons to refuse, and its functions."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

logger = logging.getLogger("internimage")
_logged: set[str] = set()


class BackendError(RuntimeError):
    """No backend that was asked for takes the call; the message lists every reason."""


@dataclass(frozen=True)
class Call:
    """What a backend needs to know of a call to say yes or no."""

    operator: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    device_type: str
    groups: int
    needs_grad: bool

    def __str__(self) -> str:
        shape, dtype = tuple(int(size) for size in self.shape), str(self.dtype).removeprefix("torch.")
        return f"{self.operator} of {shape} {dtype} on {self.device_type}, groups={self.groups}"


@dataclass(frozen=True)
class Backend:
    """One way to compute an operator.

    ``why_not(call)`` is empty when the backend takes the call. ``backward`` is None where ``forward`` is plain
    differentiable PyTorch. ``automatic`` says whether the backend may be picked without being named.
    """

    name: str
    why_not: Callable[[Call], list[str]]
    forward: Callable
    backward: Callable | None = None
    automatic: Callable[[Call], bool] = lambda call: True


def constant_while_tracing(function: Callable) -> Callable:
    """Let torch.compile run ``function`` once and keep its answer.

    The same mark as ``torch.compiler.assume_constant_result``, without its import of the compiler (a second).
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def choose(backends: Sequence[Backend], call: Call, requested: str | None = None) -> Backend:
    """The first backend that takes the call, or the requested one; raises BackendError with every reason otherwise."""
    requested = requested or _from_environment()
    if requested is not None:
        backend = named(backends, requested)
        if backend.why_not(call):
            raise BackendError(_refusal(backends, call, requested))
        return backend
    for backend in backends:
        if backend.automatic(call) and not backend.why_not(call):
            _log_choice(backends, backend, call)
            return backend
    raise BackendError(_refusal(backends, call, None))


@constant_while_tracing
def _from_environment() -> str | None:
    return os.environ.get("INTERNIMAGE_BACKEND") or None


def named(backends: Sequence[Backend], name: str) -> Backend:
    """The backend of that name; raises BackendError with the names there are."""
    for backend in backends:
        if backend.name == name:
            return backend
    known = ", ".join(repr(backend.name) for backend in backends)
    raise BackendError(f"there is no backend {name!r}; the backends are {known} (INTERNIMAGE_BACKEND or backend=...)")


def _refusal(backends: Sequence[Backend], call: Call, requested: str | None) -> str:
    lines = [f"backend {requested!r} does not take" if requested else "no backend takes"]
    lines[0] += f" {call}"
    for backend in backends:
        reasons = backend.why_not(call) or ['accepts; pass backend="' + backend.name + '"']
        lines.append(f"  {backend.name:<11} {'; '.join(reasons)}")
    return "\n".join(lines)


def _log_choice(backends: Sequence[Backend], chosen: Backend, call: Call) -> None:
    """Once for each operator and device: at debug level the pick, as a warning when it is a plain PyTorch form."""
    if torch.compiler.is_compiling():
        return
    key = f"{call.operator} {call.device_type} {chosen.name}"
    if key in _logged:
        return
    _logged.add(key)
    if chosen.backward is not None:
        logger.debug("%s on %s runs on backend %r", call.operator, call.device_type, chosen.name)
        return
    refused = [f"{backend.name}: {'; '.join(backend.why_not(call))}" for backend in backends if backend.backward]
    logger.warning(
        "%s on %s runs on the plain PyTorch form %r, same numbers but slower (%s)",
        call.operator,
        call.device_type,
        chosen.name,
        " | ".join(refused),
    )
