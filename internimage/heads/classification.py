"""Feature pyramid in, class logits out: the convolutional head of T to XL, the attention pooling of H and G."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.activation import make_activation
from ..layers.norm import layer_norm

_POOLS = ("avg", "max", "")


def make_classifier(features: int, num_classes: int) -> nn.Module:
    """A linear layer with the released initial values, or nothing for zero classes."""
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 0:
        raise ValueError(
            f"num_classes is {num_classes!r}, expected 0 (features instead of logits) or a positive integer"
        )
    if num_classes == 0:
        return nn.Identity()
    classifier = nn.Linear(features, num_classes)
    nn.init.trunc_normal_(classifier.weight, std=0.02)
    nn.init.zeros_(classifier.bias)
    return classifier


class PooledClassifier(nn.Module):
    """The end of a head, pool and linear; a subclass sets ``hidden_features`` and calls ``reset`` last."""

    hidden_features: int
    global_pool: str

    def reset(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier; ``global_pool=None`` keeps the pooling."""
        if global_pool is not None:
            if global_pool not in _POOLS:
                raise ValueError(f"global_pool is {global_pool!r}, expected one of {', '.join(map(repr, _POOLS))}")
            self.global_pool = global_pool
        self.fc = make_classifier(self.hidden_features, num_classes)

    def classify(self, x: Tensor, pre_logits: bool) -> Tensor:
        """(N, hidden_features, H, W) to (N, num_classes); without pooling to a map of logits."""
        if self.global_pool == "avg":
            x = x.mean((2, 3))
        elif self.global_pool == "max":
            x = x.amax((2, 3))
        elif not pre_logits:
            return self.fc(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x if pre_logits else self.fc(x)


class LinearHead(PooledClassifier):
    """Pool, linear: what a network cut at one of its levels ends in.

    Args:
        in_features: channels of the map; what ``pre_logits`` returns.
        num_classes: 0 leaves the linear layer out.
        global_pool: "avg", "max" or "" for none.
    """

    def __init__(self, in_features: int, num_classes: int, global_pool: str = "avg") -> None:
        super().__init__()
        self.hidden_features = in_features
        self.reset(num_classes, global_pool)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(N, in_features, H, W) to (N, num_classes), or (N, in_features) with ``pre_logits``."""
        return self.classify(x, pre_logits)


class ConvHead(PooledClassifier):
    """1x1 convolution, batch norm, activation, pool, linear: the head of T to XL.

    Args:
        in_features: channels of the last level.
        hidden_features: channels after the convolution; what ``pre_logits`` returns.
        num_classes: 0 leaves the linear layer out.
        global_pool: "avg", "max" or "" for none.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        num_classes: int,
        act_layer: str = "GELU",
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        self.hidden_features = hidden_features
        self.conv = nn.Conv2d(in_features, hidden_features, 1, bias=False)
        self.norm = nn.BatchNorm2d(hidden_features)
        self.act = make_activation(act_layer)
        self.reset(num_classes, global_pool)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(N, in_features, H, W) to (N, num_classes), or (N, hidden_features) with ``pre_logits``."""
        return self.classify(self.act(self.norm(self.conv(x))), pre_logits)


class AttentionPool(nn.Module):
    """One query, the mean of the tokens, attends to all tokens: (N, L, width) to (N, out_features)."""

    def __init__(self, width: int, heads: int, out_features: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_q, self.norm_k, self.norm_v = layer_norm(width), layer_norm(width), layer_norm(width)
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.proj = nn.Linear(width, out_features)

    def forward(self, tokens: Tensor) -> Tensor:
        query = self.q(self.norm_q(tokens.mean(1, keepdim=True)))
        key, value = self.k(self.norm_k(tokens)), self.v(self.norm_v(tokens))
        query, key, value = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (query, key, value))
        pooled = F.scaled_dot_product_attention(query, key, value)  # (N, heads, 1, width / heads)
        return self.proj(pooled.transpose(1, 2).flatten(2).squeeze(1))

    def at_each_token(self, tokens: Tensor) -> Tensor:
        """The pooled vector if the query looked at one token only: (..., width) to (..., out_features)."""
        return self.proj(self.v(self.norm_v(tokens)))


class LevelFusion(nn.Module):
    """The maps of the last two levels as one of stride 16: (N, C, h, w) and (N, 2C, h/2, w/2) to (N, width, h, w)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv_c4 = nn.Conv2d(channels, width, 1)
        self.conv_c5 = nn.Conv2d(2 * channels, 4 * width, 1)

    def forward(self, c4: Tensor, c5: Tensor) -> Tensor:
        if (c4.shape[2], c4.shape[3]) != (2 * c5.shape[2], 2 * c5.shape[3]):
            raise ValueError(
                f"the maps are {tuple(c4.shape[2:])} and {tuple(c5.shape[2:])}; this head needs an image whose height "
                "and width are multiples of 32"
            )
        return F.pixel_shuffle(self.conv_c5(c5), 2) + self.conv_c4(c4)


class ClipProjectorHead(nn.Module):
    """Attention pooling of the fused map, norm, linear: the head of H and G.

    Args:
        width: channels of the fused map, 1024 in the released models.
        out_features: width of the pooled vector, 768; what ``pre_logits`` returns.
        global_pool: "attention", or "" for none: then every position answers for itself, as if attention saw only it.
    """

    global_pool: str

    def __init__(
        self,
        num_classes: int,
        width: int = 1024,
        heads: int = 16,
        out_features: int = 768,
        global_pool: str = "attention",
    ) -> None:
        super().__init__()
        self.hidden_features = out_features
        self.pool = AttentionPool(width, heads, out_features)
        self.norm = layer_norm(out_features)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.reset(num_classes, global_pool)

    def reset(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier; ``global_pool=None`` keeps the pooling."""
        pool = self.global_pool if global_pool is None else global_pool
        if pool not in ("attention", ""):
            raise ValueError(f"global_pool is {pool!r}, but the CLIP projector pools by 'attention', or not at all: ''")
        self.global_pool = pool
        self.fc = make_classifier(self.hidden_features, num_classes)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The fused map (N, width, H, W) to (N, num_classes), or (N, out_features) with ``pre_logits``."""
        if self.global_pool == "":
            x = self.norm(self.pool.at_each_token(x.permute(0, 2, 3, 1)))
            return (x if pre_logits else self.fc(x)).permute(0, 3, 1, 2)
        x = self.norm(self.pool(x.flatten(2).transpose(1, 2)))
        return x if pre_logits else self.fc(x)
