"""Small networks of each released family, and comparisons bit for bit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from internimage.backbones import InternImageConfig
from internimage.models import InternImageClassifier

T = InternImageConfig(channels=16, depths=(1, 1, 2, 1), groups=(1, 2, 4, 8))
L = InternImageConfig(
    channels=16, depths=(1, 1, 2, 1), groups=(2, 4, 8, 16), offset_scale=2.0, post_norm=True, layer_scale=1e-5
)
H = InternImageConfig(
    channels=16,
    depths=(1, 1, 2, 1),
    groups=(1, 2, 4, 8),
    res_post_norm=True,
    dw_kernel_size=5,
    level2_post_norm=True,
    level2_post_norm_block_ids=(1,),
    center_feature_scale=True,
    use_clip_projector=True,
)
FLASH = InternImageConfig(
    channels=16,
    depths=(1, 1, 2, 1),
    groups=(1, 2, 4, 8),
    core_op="DCNv4",
    dw_kernel_size=3,
    post_norm=True,
    layer_scale=1e-5,
)
FAMILIES = {"T": T, "L": L, "H": H, "Flash": FLASH}


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """``module`` with another value in every entry of its state."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                lowest = 0.5 if name.endswith("running_var") else -0.5
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + lowest)
            else:
                tensor.fill_(7)
    return module.eval()


def classifier(config: InternImageConfig = T, num_classes: int = 5, seed: int = 0) -> InternImageClassifier:
    """A small classifier with a value of its own in every entry."""
    model = InternImageClassifier(config, num_classes)
    randomize(model, seed)
    return model


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal dtype, shape and bits."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bytes(a), _bytes(b))


def assert_same_state(got: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> None:
    """The same names in the same order, and the same bits."""
    assert list(got) == list(want)
    different = [name for name in want if not same_bits(got[name], want[name])]
    assert not different


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().flatten().view(torch.uint8)
