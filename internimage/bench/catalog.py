"""Every operator that is timed, by name."""

from __future__ import annotations

from .attention import MS_DEFORM_ATTN
from .deformable import DCNV3, DCNV4
from .operators import Operator

OPERATORS: dict[str, Operator] = {operator.name: operator for operator in (DCNV3, DCNV4, MS_DEFORM_ATTN)}
