"""Every tolerance of the tests, in one table, each with its reason; the same on a desk and in CI.

The measure is ``relative_error``: ``max|got - want| / max|want|`` over a tensor. A row is for what is compared and the
dtype it was computed in; what is compared with is float64 wherever nothing else is said.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Tolerance(NamedTuple):
    bound: float
    reason: str


_ONE_ROUNDING = "float32 inside, so what is left is the rounding of the result, half a unit in the last place, doubled"
_SUMS = "sums of a few dozen products; other orders of summing differ by some units in the last place"
_RECORDED = "the bound stated with the recorded tensors; the released modules in float32 stay within 5e-6"

TOLERANCES: dict[tuple[str, torch.dtype], Tolerance] = {
    # An operator's output and its three gradients: plain loops, backends and recorded tensors alike.
    ("operator", torch.float64): Tolerance(1e-9, "no float32 step may hide in a float64 path; that would show as 1e-7"),
    ("operator", torch.float32): Tolerance(1e-5, _SUMS),
    ("operator", torch.bfloat16): Tolerance(8e-3, _ONE_ROUNDING),
    ("operator", torch.float16): Tolerance(1e-3, _ONE_ROUNDING),
    ("plain loops", torch.float64): Tolerance(1e-12, "the same formula twice; only the order of the sums differs"),
    # The export form hands normalised coordinates to grid_sample.
    ("export form", torch.float64): Tolerance(1e-9, "measured 1.8e-15: normalising in float64 costs nothing here"),
    ("export form", torch.float32): Tolerance(1e-5, "normalised coordinates lose bits of the position: up to 4e-6"),
    ("export form", torch.bfloat16): Tolerance(8e-3, _ONE_ROUNDING),
    ("export form", torch.float16): Tolerance(1e-3, _ONE_ROUNDING),
    ("wide map", torch.float32): Tolerance(1e-4, "around pixel 700 float32 knows a position to 3e-5; measured 4.3e-5"),
    # Losses of fifty training steps on two backends.
    ("training", torch.float32): Tolerance(1e-4, "roundings add up over the steps; measured 6e-7"),
    # Weights after some steps on two processes, against one: the same sums in another order.
    ("spread", torch.float32): Tolerance(1e-6, "measured 4e-7; a gradient off by a thousandth would show as 1e-4"),
    # Losses of twenty training steps of a whole model, against those in a file with six digits.
    ("golden run", torch.float32): Tolerance(
        1e-4, "roundings of another library or backend add up; measured 1.2e-6, and another seed is off by 0.1"
    ),
    # A fused pass of inference: convolution, norm and activation in one.
    ("fused pass", torch.float32): Tolerance(1e-5, _SUMS),
    ("fused pass", torch.bfloat16): Tolerance(8e-3, _ONE_ROUNDING),
    ("fused pass", torch.float16): Tolerance(1e-3, _ONE_ROUNDING),
    # One module, such as DCNv3: projections, norm and operator.
    ("module", torch.float64): Tolerance(1e-9, _RECORDED),
    ("module", torch.float32): Tolerance(1e-5, _RECORDED),
    ("module", torch.bfloat16): Tolerance(2e-2, "eight bits in every projection and offset; measured 7e-3"),
    ("module", torch.float16): Tolerance(2e-3, "eleven bits in every projection and offset; measured 7e-4"),
    ("module gradient", torch.float64): Tolerance(1e-8, "sums over all positions, hence larger than the output's"),
    ("module gradient", torch.float32): Tolerance(1e-4, "sums over all positions, hence larger than the output's"),
    # Whole networks: feature maps and logits, then gradients.
    ("model", torch.float64): Tolerance(1e-8, "reveals what float32 hides, such as a LayerNorm eps of 1e-5 for 1e-6"),
    ("model", torch.float32): Tolerance(1e-4, _RECORDED),
    ("model", torch.bfloat16): Tolerance(3e-2, "eight bits a layer in storage; five blocks deep measured up to 1.7e-2"),
    ("model", torch.float16): Tolerance(4e-3, "eleven bits a layer in storage; five blocks deep measured up to 1.9e-3"),
    ("model gradient", torch.float64): Tolerance(1e-7, _RECORDED),
    ("model gradient", torch.float32): Tolerance(1e-3, _RECORDED),
    # Evaluation preprocessing against recorded crops; absolute, on values of about -2 to 2.
    ("transforms", torch.float32): Tolerance(2e-5, "rounding of the normalisation; one grey level would be 1.7e-2"),
}

# The offset gradient jumps where a sample crosses a grid line: float32 and float64 may pick different cells there.
# On a 200x200 map the worst error is 2.7 with these samples and 7e-5 without them (0.04 % of all).
NEAR_LATTICE_PX = 1e-4

# `import internimage` on top of `import torch, torchvision`, best of three fresh processes.
IMPORT_SECONDS = 0.5


def tolerance(what: str, dtype: torch.dtype = torch.float32) -> float:
    """The bound for ``what`` computed in ``dtype``; a missing row is an error, not a default."""
    return TOLERANCES[what, dtype].bound


def relative_error(got: Tensor, want: Tensor) -> float:
    """``max|got - want| / max|want|``; infinite where shapes differ or a NaN stands on one side only.

    Numbers are of order one in these tests. Of a few, all may be sums that cancel, so they count as 0.1 at least.
    """
    if got.shape != want.shape:
        return float("inf")
    if want.numel() == 0:
        return 0.0
    got, want = got.detach().double().cpu(), want.detach().double().cpu()
    if not torch.equal(got.isnan(), want.isnan()):
        return float("inf")
    error = (got - want).nan_to_num(0.0).abs().max().item()
    largest = max(want.nan_to_num(0.0).abs().max().item(), 0.1 if want.numel() < 16 else 0.0)
    return error / largest if largest else error


def assert_close(got: Tensor, want: Tensor, what: str, dtype: torch.dtype | None = None) -> None:
    """Fail when ``got`` is further from ``want`` than the table allows for ``what`` in ``dtype`` (``got``'s own)."""
    bound = tolerance(what, dtype or got.dtype)
    error = relative_error(got, want)
    assert error <= bound, f"{what}: relative error {error:.3g} over {bound:g}; shapes {got.shape} and {want.shape}"
