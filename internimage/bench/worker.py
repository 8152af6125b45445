"""The process that :mod:`.compare` starts in each of two trees: reads what to time, a JSON object a line, and answers.

It takes from the package around it no more than the public operators and models, so that it runs in older trees too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from ..ops import native
from . import timing
from .timing import Candidate

TREE = Path(__file__).resolve().parents[2]


def answer(asked: dict[str, Any], kept: dict[str, Candidate]) -> dict[str, Any]:
    """Time one case for some seconds; the least milliseconds of a run.

    Args:
        asked: ``case``, what to time, see :func:`prepare`; ``seconds``.
        kept: the candidate of the last case, under the case's text; filled here.
    """
    key = json.dumps(asked["case"], sort_keys=True)
    if key not in kept:
        kept.clear()
        kept[key] = prepare(**asked["case"])
    clock = timing.clock_of(torch.device(asked["case"]["device"]))
    samples = timing.in_turns([kept[key]], asked["seconds"], rounds=1, clock=clock)["run"]
    return {"ms": 1e3 * min(sample.wall for sample in samples)}


def prepare(part: str, device: str, dtype: str, threads: int, **what: Any) -> Candidate:
    """A call of an operator, whose numbers are checked first, or a network.

    Raises:
        ValueError: the numbers are wrong.
    """
    torch.set_num_threads(threads)
    make = _operator if part == "op" else _network
    return make(torch.device(device), getattr(torch, dtype), **what)


def _operator(device: torch.device, dtype: torch.dtype, operator: str, shape: str, direction: str) -> Candidate:
    from . import catalog, op, operators

    known = catalog.OPERATORS[operator]
    size = known.parse(shape)
    assert size is not None, shape  # the other side of the pipe wrote it
    inputs = known.make(size).to(device).to(dtype)
    ours = known.forms(device.type)[operators.OURS]
    op.check(ours, inputs, known.exact(inputs), f"{operator} at {shape}")
    return Candidate("run", operators.calls(ours, inputs)[direction])


def _network(
    device: torch.device, dtype: torch.dtype, model: str, batch: int, size: list[int], features: bool, train: bool
) -> Candidate:
    from . import images, network_runs
    from . import model as models

    setting = network_runs.Setting(device, dtype, variants=(), train=train)
    taken = images.Size(batch, size[0], size[1], 1, features)
    candidate = models.candidates_of([model], taken, setting)[0]
    return Candidate("run", candidate.run, candidate.around)


def require_own_modules() -> None:
    """ValueError when a part of the package is of another tree: an installed one may lend what an old one lacks."""
    package = str(__package__).partition(".")[0]
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.partition(".")[0] == package and file and not Path(file).resolve().is_relative_to(TREE):
            raise ValueError(f"this commit has no {name}")


def main() -> None:
    """Say whether this tree is whole and its kernels load, then answer every line."""
    require_own_modules()
    print(json.dumps({"tree": str(TREE), "kernels": native.load_error()}), flush=True)
    kept: dict[str, Candidate] = {}
    for line in sys.stdin:
        try:
            said = answer(json.loads(line), kept)
            require_own_modules()
        except Exception as error:  # told to the other side, which knows what to do
            said = {"error": f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
