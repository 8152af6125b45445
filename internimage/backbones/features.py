"""A backbone that returns the maps of some of its levels, and what it says of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from .config import InternImageConfig
from .internimage import InternImage, as_level_indices


class FeatureExtractor(nn.Module):
    """A backbone that returns the maps of some levels, in the order asked for.

    Args:
        config: the architecture.
        out_indices: levels 0 to 3; an int n is the last n levels; None is all.
        backend: the DCNv3 backend of every block; None picks the fastest.

    Attributes:
        feature_info: ``channels()`` and ``reduction()`` (stride) of each map.
    """

    output_fmt = "NCHW"

    def __init__(
        self, config: InternImageConfig, out_indices: int | Sequence[int] | None = None, backend: str | None = None
    ) -> None:
        super().__init__()
        self.config, self.in_chans = config, config.in_chans
        self.default_cfg: dict[str, Any] = {}
        self.pretrained_cfg = self.default_cfg
        self.backbone = InternImage(config, as_level_indices(out_indices), backend=backend)
        self.out_indices = self.backbone.out_indices
        self.backbone.drop_levels_after(max(self.out_indices))
        infos = self.backbone.feature_info
        self.feature_info = FeatureInfo(
            {**infos[i], "module": f"backbone.levels.{i}", "index": i} for i in self.out_indices
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, in_chans, H, W) to a list of (N, C, H, W) maps."""
        return self.backbone(x)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only block inputs for the backward pass."""
        self.backbone.set_grad_checkpointing(enable)


class FeatureInfo(list):
    """A list of ``{"num_chs", "reduction", "module", "index"}``, one a map, with timm's accessors."""

    def channels(self) -> list[int]:
        """Channels of each map."""
        return [info["num_chs"] for info in self]

    def reduction(self) -> list[int]:
        """Stride of each map against the image."""
        return [info["reduction"] for info in self]

    def module_name(self) -> list[str]:
        """The module each map comes from."""
        return [info["module"] for info in self]

    def get_dicts(self, keys: Iterable[str] | None = None) -> list[dict]:
        """The entries, or only ``keys`` of each."""
        return [{key: info[key] for key in (info if keys is None else keys)} for info in self]
