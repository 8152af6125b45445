"""Settings for going on from trained weights on pictures of one's own, by how many there are."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ..backbones.config import SIZES, InternImageConfig
from ..data.augment import Augmentation
from ..data.transforms import Preprocessing
from .augmentation import Transform
from .classification import ClassificationRecipe

MOST_AT_ONCE = 64  # pictures of one step
KEPT_IN_MEMORY = 96  # pixels: up to here all pictures are kept in memory, and changed as whole batches
MANY_CLASSES = 1000  # weights that tell so many classes apart have seen enough of the world to keep most of it
MOST_AVERAGED = 0.9999
_SQUARE_ROOT_AT = 64  # the batch that the learning rates are for; they grow with its square root, as Adam's steps want


class Amount(NamedTuple):
    """Settings for fewer than ``below`` pictures to learn from."""

    below: float
    epochs: int
    layer_decay: float
    frozen_levels: tuple[int, ...]
    held_out: float
    least_area: float  # of the part that is cut out of a picture
    auto_augment: str | None
    erase: float


AMOUNTS = (
    Amount(200, 60, 0.75, (0, 1), 0.2, 0.5, None, 0.0),
    Amount(2_000, 40, 0.8, (0,), 0.2, 0.35, "rand-m5-mstd0.5-inc1", 0.1),
    Amount(20_000, 20, 0.85, (), 0.1, 0.2, "rand-m7-mstd0.5-inc1", 0.25),
    Amount(200_000, 12, 0.9, (), 0.1, 0.08, "rand-m9-mstd0.5-inc1", 0.25),
    Amount(math.inf, 8, 0.9, (), 0.05, 0.08, "rand-m9-mstd0.5-inc1", 0.25),
)


def finetuning_recipe(
    model: str,
    pictures: int,
    classes: int,
    *,
    preprocessing: Preprocessing,
    pretrained: str = "",
    pretrained_classes: int = MANY_CLASSES,
    config: InternImageConfig | None = None,
    data: str = "",
    subject: str = "",
    shares: int = 1,
) -> ClassificationRecipe:
    """The settings for a model and so many pictures to learn from; the same arguments give the same recipe.

    ========  ======  ===========  =============  ========  ==========  ======
    pictures  epochs  layer decay  frozen levels  held out  least area  erased
    ========  ======  ===========  =============  ========  ==========  ======
    < 200         60         0.75  0, 1               0.2         0.5      0
    < 2000        40          0.8  0                  0.2        0.35    0.1
    < 20000       20         0.85  -                  0.1         0.2   0.25
    < 200000      12          0.9  -                  0.1        0.08   0.25
    more           8          0.9  -                 0.05        0.08   0.25
    ========  ======  ===========  =============  ========  ==========  ======

    - Few pictures need more epochs for the same number of steps, and forget more on the way: early levels, which see
      edges and textures, are frozen or learn slower, by ``layer_decay`` a block.
    - Few pictures are changed less: what is cut out keeps more of the picture, RandAugment is weaker or off, and no
      rectangle is erased. Pictures are never mixed, as in all released fine-tuning.
    - A step takes 64 pictures, or fewer so that an epoch has four steps or more. The learning rate is 5e-4 for 64
      pictures, 1e-4 for L and larger, and goes with the square root of the batch.
    - The average of the weights spans two epochs, at most 10,000 steps.
    - Weights that tell fewer than 1000 classes apart, such as those of the embedded model, know little of other
      pictures: nothing is frozen or slowed, the rate is 3e-3, and there are twice the epochs.
    - Pictures of up to 96 pixels, and those laid on black first, are kept in memory and changed as whole batches.
    - L and larger compute blocks twice to save memory.

    Args:
        model: a name of :func:`internimage.list_models`.
        pictures: to learn from, without those held out.
        classes: to tell apart.
        preprocessing: of the model; the pictures go through it.
        pretrained: where the weights are; ``pretrained_classes`` is how many classes they tell apart.
        config: of the model, where it is not quite the one of that name.
        data, subject: where the pictures lie and what they show.
        shares: equal parts that a step is cut into, of all processes and of accumulation.

    Raises:
        ValueError: there is nothing to learn: fewer than two classes, or fewer pictures than classes.
    """
    if classes < 2:
        raise ValueError(f"classes is {classes}, expected two or more to tell apart; make a folder for each")
    if pictures < classes:
        raise ValueError(f"{pictures} pictures of {classes} classes are left to learn from, expected one a class")
    amount = amount_for(pictures)
    knows_much = pretrained_classes >= MANY_CLASSES
    large = SIZES[model].channels >= SIZES["internimage_l"].channels
    if pictures < shares:
        raise ValueError(
            f"{pictures} pictures are left to learn from, fewer than the {shares} parts of a step, one a process "
            "and a micro-batch of --accumulation; start fewer processes"
        )
    batch_size = 2 ** int(math.log2(min(MOST_AT_ONCE, max(pictures // 4, 1))))
    batch_size = max(1, round(batch_size / shares)) * shares
    epochs = amount.epochs if knows_much else 2 * amount.epochs
    rate = 1e-4 if large else 5e-4 if knows_much else 3e-3
    return ClassificationRecipe(
        name="finetune",
        model=model,
        model_changes={} if config is None else changes_of(model, config),
        pretrained=pretrained,
        head_start="random",
        head_init_scale=0.001,
        data=data,
        subject=subject,
        held_out=amount.held_out,
        epochs=epochs,
        batch_size=batch_size,
        lr=_round(rate * math.sqrt(batch_size / _SQUARE_ROOT_AT)),
        warmup_epochs=max(1.0, epochs / 10),
        layer_decay=amount.layer_decay if knows_much else None,
        dcn_lr_mul=0.1 if knows_much else None,
        frozen_levels=amount.frozen_levels if knows_much else (),
        ema_decay=min(_round(1 - 1 / (2 * max(pictures // batch_size, 1))), MOST_AVERAGED),
        ema_warmup=True,
        drop_path_rate=0.1 if knows_much else 0.05,
        grad_checkpointing=large,
        image_sizes=(preprocessing.image_size,),
        channels=preprocessing.channels,
        mean=preprocessing.mean,
        std=preprocessing.std,
        interpolation=preprocessing.interpolation,
        crop=preprocessing.crop,
        dark_background=preprocessing.dark_background,
        **_changes(amount, preprocessing),
    )


def amount_for(pictures: int) -> Amount:
    """The row of the table."""
    return next(amount for amount in AMOUNTS if pictures < amount.below)


def held_out_share(pictures: int) -> float:
    """The share of all pictures to measure on."""
    return amount_for(pictures).held_out


def _changes(amount: Amount, preprocessing: Preprocessing) -> dict[str, Any]:
    """How pictures are changed, for the way they are read."""
    if preprocessing.image_size <= KEPT_IN_MEMORY or preprocessing.dark_background:
        zoom = _round(math.sqrt(1 / amount.least_area) / 10)  # a tenth: objects fill such pictures
        rotate = 10.0 if amount.auto_augment else 0.0
        changes = Augmentation(shift=zoom / 2, zoom=zoom, rotate=rotate, flip=True, erase=amount.erase)
        return {"source": "memory", "augmentation": changes}
    changes_of_files = Transform(
        scale=(amount.least_area, 1.0), auto_augment=amount.auto_augment, color_jitter=0.2, erase=amount.erase
    )
    return {"source": "files", "transform": changes_of_files}


def changes_of(model: str, config: InternImageConfig) -> dict[str, Any]:
    """The fields of a configuration that are not those of the model of that name; what a recipe says itself is left."""
    own = SIZES[model]
    said = ("in_chans", "drop_path_rate")
    names = [name for name in InternImageConfig.field_names() if name not in said]
    return {name: getattr(config, name) for name in names if getattr(config, name) != getattr(own, name)}


def _round(value: float) -> float:
    """Three digits that count."""
    return float(f"{value:.3g}")
