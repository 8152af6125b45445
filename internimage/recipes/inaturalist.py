"""iNaturalist 2018, 8142 species, with date and place."""

from __future__ import annotations

from dataclasses import replace

from .classification import ClassificationRecipe
from .imagenet import internimage_h_22kto1k_384


def internimage_h_22ktoinat18_384() -> ClassificationRecipe:
    """InternImage-H with a branch for date and place, fine-tuned on iNaturalist 2018.

    The classifier begins at random values, scaled down to a thousandth. The released configuration names no batch size;
    512 is that of H on ImageNet-1K, whose settings the paper says it shares.

    Cost: 100 epochs x 437,513 images at 384x384, 512 a step, 1,096.2 M parameters; time not measured here.
    Published: 92.6 % top-1.
    Ours: not trained here.
    """
    parent = internimage_h_22kto1k_384()
    return replace(
        parent,
        name="internimage_h_22ktoinat18_384",
        parent=parent.name,
        released="internimage_h_22ktoinat18_384",
        model="internimage_h_meta",
        metadata=True,
        dataset="inaturalist-2018",
        head_start="random",
        head_init_scale=0.001,
        epochs=100,
        warmup_epochs=0.0,
        drop_path_rate=0.6,
        ema_decay=0.0,
        layer_decay=None,
        dcn_lr_mul=None,
    )
