"""Two pictures in one: timm's Mixup and CutMix, always the same for the same batch."""

from __future__ import annotations

from torch import Tensor

from .seeds import seeded

MODES = ("batch", "pair", "elem")
_STREAM = 2  # sets these random numbers apart from those of the transforms


class Mixing:
    """Mixup and CutMix with soft targets; label smoothing is folded into them.

    Args:
        num_classes: columns of the targets.
        mixup, cutmix: alpha of the beta distribution that the weights come from; 0 for none of it.
        cutmix_minmax: smallest and largest side of what CutMix pastes, as shares, instead of ``cutmix``.
        prob: of a batch (or picture) being mixed at all.
        switch_prob: of CutMix where both are on.
        mode: what draws its own values: the "batch", each "pair", or each picture ("elem").
        label_smoothing: 0 to below 1.

    Raises:
        ValueError: an argument means nothing, or nothing would be mixed.
        ImportError: timm is not there.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        mixup: float = 0.8,
        cutmix: float = 1.0,
        cutmix_minmax: tuple[float, float] | None = None,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        mode: str = "batch",
        label_smoothing: float = 0.1,
        seed: int = 0,
    ) -> None:
        try:
            from timm.data import Mixup
        except ImportError as error:
            raise ImportError("mixing comes from timm: pip install 'internimage-torch[train]'") from error
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}, expected one of {', '.join(MODES)}")
        if mixup < 0 or cutmix < 0 or not (mixup or cutmix or cutmix_minmax):
            raise ValueError(f"mixup is {mixup} and cutmix {cutmix}, expected 0 or more, and one of them above 0")
        if cutmix_minmax is not None and not (len(cutmix_minmax) == 2 and 0 <= cutmix_minmax[0] <= cutmix_minmax[1]):
            raise ValueError(f"cutmix_minmax is {cutmix_minmax}, expected (smallest, largest) shares of a side")
        for name, value in (("prob", prob), ("switch_prob", switch_prob), ("label_smoothing", label_smoothing)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}, expected 0 to 1")
        self.seed = seed
        self._mix = Mixup(
            mixup_alpha=mixup,
            cutmix_alpha=cutmix,
            cutmix_minmax=None if cutmix_minmax is None else list(cutmix_minmax),
            prob=prob,
            switch_prob=switch_prob,
            mode=mode,
            label_smoothing=label_smoothing,
            num_classes=num_classes,
        )

    def __call__(self, images: Tensor, labels: Tensor, *, step: int, share: int = 0) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            images: (N, C, H, W), N even; changed in place.
            labels: (N,), int64.
            step, share: what the random numbers follow from, beside the seed.

        Returns:
            The images, and soft targets (N, num_classes) whose rows sum to 1.

        Raises:
            ValueError: N is odd.
        """
        check_even(len(images))
        with seeded(_STREAM, self.seed, step, share):
            mixed_images, targets = self._mix(images, labels)
        return mixed_images, targets


def check_even(micro_batch_size: int) -> None:
    """ValueError for an odd number of pictures: the first is mixed with the last, and so on."""
    if micro_batch_size % 2:
        raise ValueError(
            f"a micro-batch of {micro_batch_size} pictures cannot be mixed in pairs; choose batch_size, processes and "
            "accumulation so that batch_size / (processes * accumulation) is even, or mixup 0 and cutmix 0"
        )
