"""ImageNet as the released classifiers learned it: one function a released configuration.

The settings are those of the released configurations, not of the paper's table 7, which states shorter warm-ups (5
epochs from scratch, none for fine-tuning). Two of theirs change no number and are left to you: pictures kept in memory
(``cache``) and the sharded optimizer (``--strategy``).

H and G began with weights pre-trained on image-text pairs, 427 million of them for H, and then on ImageNet-22K; how the
second step was done is not public, so it has no recipe.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .augmentation import Mixing, Transform
from .classification import ClassificationRecipe


def internimage_t_1k_224() -> ClassificationRecipe:
    """InternImage-T on ImageNet-1K from scratch.

    Cost: 300 epochs x 1,281,167 images at 224x224, 4,096 a step, 29.9 M parameters; time not measured here.
    Published: 83.5 % top-1.
    Ours: not trained here.
    """
    return _from_scratch("internimage_t_1k_224", "internimage_t", drop_path_rate=0.1)


def internimage_s_1k_224() -> ClassificationRecipe:
    """InternImage-S on ImageNet-1K from scratch.

    Cost: 300 epochs x 1,281,167 images at 224x224, 4,096 a step, 50.1 M parameters; time not measured here.
    Published: 84.2 % top-1.
    Ours: not trained here.
    """
    return _variant(internimage_t_1k_224(), "internimage_s_1k_224", model="internimage_s", drop_path_rate=0.4)


def internimage_b_1k_224() -> ClassificationRecipe:
    """InternImage-B on ImageNet-1K from scratch.

    Cost: 300 epochs x 1,281,167 images at 224x224, 4,096 a step, 97.5 M parameters; time not measured here.
    Published: 84.9 % top-1.
    Ours: not trained here.
    """
    return _variant(internimage_t_1k_224(), "internimage_b_1k_224", model="internimage_b", drop_path_rate=0.5)


def internimage_l_22k_192() -> ClassificationRecipe:
    """InternImage-L on ImageNet-22K from scratch, at 192 pixels; of the released file the first part.

    From table 7 of the paper (arXiv 2211.05778), which states neither the last learning rate nor an average: the former
    is the released default, the latter is off. How the released file went on from 192 to 384 pixels is not public.
    All pictures are trained on; ``--val imagenet/`` measures on ImageNet-1K, ``--set held_out=0.004`` keeps a few out.

    Cost: 90 epochs x 14,197,122 images at 192x192, 4,096 a step, 263.4 M parameters; time not measured here.
    Published: none.
    Ours: not trained here.
    """
    return _variant(
        internimage_t_1k_224(),
        "internimage_l_22k_192",
        model="internimage_l",
        dataset="imagenet-22k",
        held_out=0.0,
        image_sizes=(192,),
        epochs=90,
        warmup_epochs=5.0,
        lr=1.25e-4,
        drop_path_rate=0.1,
        ema_decay=0.0,
        released="",
    )


def internimage_xl_22k_192() -> ClassificationRecipe:
    """InternImage-XL on ImageNet-22K from scratch, at 192 pixels; of the released file the first part.

    What is known and what is not is as for ``internimage_l_22k_192``.

    Cost: 90 epochs x 14,197,122 images at 192x192, 4,096 a step, 382.9 M parameters; time not measured here.
    Published: none.
    Ours: not trained here.
    """
    return _variant(
        internimage_l_22k_192(), "internimage_xl_22k_192", model="internimage_xl", drop_path_rate=0.2, released=""
    )


def internimage_l_22kto1k_384() -> ClassificationRecipe:
    """InternImage-L, pre-trained on ImageNet-22K, fine-tuned on ImageNet-1K; early blocks learn slower.

    Cost: 20 epochs x 1,281,167 images at 384x384, 512 a step, 223.3 M parameters; time not measured here.
    Published: 87.7 % top-1.
    Ours: not trained here.
    """
    return _fine_tuning(
        "internimage_l_22kto1k_384",
        "internimage_l",
        "internimage_l_22k_192to384",
        drop_path_rate=0.1,
        grad_checkpointing=True,  # of L alone
    )


def internimage_xl_22kto1k_384() -> ClassificationRecipe:
    """InternImage-XL, pre-trained on ImageNet-22K, fine-tuned on ImageNet-1K; early blocks learn slower.

    Cost: 20 epochs x 1,281,167 images at 384x384, 512 a step, 334.8 M parameters; time not measured here.
    Published: 88.0 % top-1.
    Ours: not trained here.
    """
    return _variant(
        internimage_l_22kto1k_384(),
        "internimage_xl_22kto1k_384",
        model="internimage_xl",
        pretrained="internimage_xl_22k_192to384",
        grad_checkpointing=False,
        drop_path_rate=0.2,
    )


def internimage_h_22kto1k_384() -> ClassificationRecipe:
    """InternImage-H, pre-trained on image-text pairs and ImageNet-22K, fine-tuned on ImageNet-1K at 384 pixels.

    Cost: 20 epochs x 1,281,167 images at 384x384, 512 a step, 1,089.6 M parameters; the authors report
    11.9 to 16.0 GB a card on 8 cards, 16 images at a time, by DeepSpeed's ZeRO.
    Published: none; no file of it was released.
    Ours: not trained here.
    """
    return _variant(
        internimage_l_22kto1k_384(),
        "internimage_h_22kto1k_384",
        model="internimage_h",
        pretrained="internimage_h_jointto22k_384",
        grad_checkpointing=False,
        drop_path_rate=0.2,
        released="",
    )


def internimage_h_22kto1k_640() -> ClassificationRecipe:
    """InternImage-H, pre-trained on image-text pairs and ImageNet-22K, fine-tuned on ImageNet-1K at 640 pixels.

    Cost: 20 epochs x 1,281,167 images at 640x640, 512 a step, 1,089.6 M parameters; the authors report
    19.1 to 22.6 GB a card on 8 cards, 16 images at a time, by DeepSpeed's ZeRO.
    Published: 89.6 % top-1.
    Ours: not trained here.
    """
    return _variant(internimage_h_22kto1k_384(), "internimage_h_22kto1k_640", image_sizes=(640,))


def internimage_g_22kto1k_512() -> ClassificationRecipe:
    """InternImage-G, pre-trained on image-text pairs and ImageNet-22K, fine-tuned on ImageNet-1K at 512 pixels.

    Cost: 20 epochs x 1,281,167 images at 512x512, 512 a step, 3,076.4 M parameters; the authors took 64 cards, 8 images
    each.
    Published: 90.1 % top-1.
    Ours: not trained here.
    """
    return _variant(
        internimage_l_22kto1k_384(),
        "internimage_g_22kto1k_512",
        model="internimage_g",
        pretrained="internimage_g_pretrainto22k_384",
        grad_checkpointing=False,
        image_sizes=(512,),
        drop_path_rate=0.4,
    )


def internimage_t_1k_224_without_lr_decay() -> ClassificationRecipe:
    """InternImage-T as in the paper; the same settings as ``internimage_t_1k_224``.

    Cost: 300 epochs x 1,281,167 images at 224x224, 4,096 a step, 29.9 M parameters; time not measured here.
    Published: 83.5 % top-1.
    Ours: not trained here.
    """
    return _without_lr_decay(internimage_t_1k_224())


def internimage_s_1k_224_without_lr_decay() -> ClassificationRecipe:
    """InternImage-S as in the paper; the same settings as ``internimage_s_1k_224``.

    Cost: 300 epochs x 1,281,167 images at 224x224, 4,096 a step, 50.1 M parameters; time not measured here.
    Published: 84.2 % top-1.
    Ours: not trained here.
    """
    return _without_lr_decay(internimage_s_1k_224())


def internimage_b_1k_224_without_lr_decay() -> ClassificationRecipe:
    """InternImage-B as in the paper; the same settings as ``internimage_b_1k_224``.

    Cost: 300 epochs x 1,281,167 images at 224x224, 4,096 a step, 97.5 M parameters; time not measured here.
    Published: 84.9 % top-1.
    Ours: not trained here.
    """
    return _without_lr_decay(internimage_b_1k_224())


def internimage_l_22kto1k_384_without_lr_decay() -> ClassificationRecipe:
    """InternImage-L fine-tuned as in the paper: all layers learn at the same rate.

    Cost: 20 epochs x 1,281,167 images at 384x384, 512 a step, 223.3 M parameters; time not measured here.
    Published: 87.7 % top-1.
    Ours: not trained here.
    """
    return _without_lr_decay(internimage_l_22kto1k_384())


def internimage_xl_22kto1k_384_without_lr_decay() -> ClassificationRecipe:
    """InternImage-XL fine-tuned as in the paper: all layers learn at the same rate.

    Cost: 20 epochs x 1,281,167 images at 384x384, 512 a step, 334.8 M parameters; time not measured here.
    Published: 88.0 % top-1.
    Ours: not trained here.
    """
    return _without_lr_decay(internimage_xl_22kto1k_384())


def internimage_h_22kto1k_640_without_lr_decay() -> ClassificationRecipe:
    """InternImage-H fine-tuned at 640 pixels as in the paper: all layers learn at the same rate.

    Cost: 20 epochs x 1,281,167 images at 640x640, 512 a step, 1,089.6 M parameters; the authors report
    19.1 to 22.6 GB a card on 8 cards, 16 images at a time, by DeepSpeed's ZeRO.
    Published: 89.6 % top-1.
    Ours: not trained here.
    """
    return _without_lr_decay(internimage_h_22kto1k_640())


def internimage_g_22kto1k_512_without_lr_decay() -> ClassificationRecipe:
    """InternImage-G fine-tuned as in the paper: all layers learn at the same rate.

    Cost: 20 epochs x 1,281,167 images at 512x512, 512 a step, 3,076.4 M parameters; the authors took 64 cards, 8 images
    each.
    Published: 90.1 % top-1.
    Ours: not trained here.
    """
    return _without_lr_decay(internimage_g_22kto1k_512())


def flash_intern_image_t_1k_224() -> ClassificationRecipe:
    """FlashInternImage-T on ImageNet-1K from scratch: the settings of InternImage-T, the operator DCNv4.

    Cost: 300 epochs x 1,281,167 images at 224x224, 4,096 a step, 29.8 M parameters; time not measured here.
    Published: 83.6 % top-1.
    Ours: not trained here.
    """
    return _variant(internimage_t_1k_224(), "flash_intern_image_t_1k_224", model="flash_internimage_t")


def flash_intern_image_s_1k_224() -> ClassificationRecipe:
    """FlashInternImage-S on ImageNet-1K from scratch: the settings of InternImage-S, the operator DCNv4.

    Cost: 300 epochs x 1,281,167 images at 224x224, 4,096 a step, 50.1 M parameters; time not measured here.
    Published: 84.4 % top-1.
    Ours: not trained here.
    """
    return _variant(internimage_s_1k_224(), "flash_intern_image_s_1k_224", model="flash_internimage_s")


def flash_intern_image_b_1k_224() -> ClassificationRecipe:
    """FlashInternImage-B on ImageNet-1K from scratch: the settings of InternImage-B, the operator DCNv4.

    Cost: 300 epochs x 1,281,167 images at 224x224, 4,096 a step, 97.4 M parameters; time not measured here.
    Published: 84.9 % top-1.
    Ours: not trained here.
    """
    return _variant(internimage_b_1k_224(), "flash_intern_image_b_1k_224", model="flash_internimage_b")


def flash_intern_image_l_22kto1k_384() -> ClassificationRecipe:
    """FlashInternImage-L, pre-trained on ImageNet-22K, fine-tuned on ImageNet-1K; early blocks learn slower.

    The released configuration asks for the last, and the trainer released with it fails on it: whether the released
    weights were made so is not known.

    Cost: 20 epochs x 1,281,167 images at 384x384, 512 a step, 223.3 M parameters; time not measured here.
    Published: 88.1 % top-1.
    Ours: not trained here.
    """
    return _variant(
        internimage_l_22kto1k_384(),
        "flash_intern_image_l_22kto1k_384",
        model="flash_internimage_l",
        pretrained="flash_intern_image_l_22k_384",
        released="flash_internimage_l_22kto1k_384",
    )


def _from_scratch(name: str, model: str, **changes: Any) -> ClassificationRecipe:
    """The released defaults. Rates are stated for 512 images a step."""
    settings: dict[str, Any] = {
        "dataset": "imagenet-1k",
        "released": name,
        "image_sizes": (224,),
        "epochs": 300,
        "batch_size": 4096,
        "rates_for_batch": 512,
        "lr": 5e-4,
        "min_lr": 5e-6,
        "warmup_lr": 5e-7,
        "warmup_epochs": 20.0,
        "weight_decay": 0.05,
        "clip_grad": 5.0,
        "ema_decay": 0.9999,
        "dtype": "float16",
        "label_smoothing": 0.1,
        "mixing": Mixing(mixup=0.8, cutmix=1.0),
    }
    return ClassificationRecipe(name=name, model=model, **(settings | changes))


def _fine_tuning(name: str, model: str, pretrained: str, **changes: Any) -> ClassificationRecipe:
    """Short, slow and gentle: nothing is mixed or erased."""
    settings: dict[str, Any] = {
        "pretrained": pretrained,
        "image_sizes": (384,),
        "epochs": 20,
        "batch_size": 512,
        "lr": 2e-5,
        "min_lr": 0.0,
        "warmup_lr": 0.0,
        "warmup_epochs": 2.0,
        "label_smoothing": 0.3,
        "layer_decay": 0.9,
        "dcn_lr_mul": 0.1,
        "transform": Transform(erase=0.0),
        "mixing": Mixing(),
    }
    return _from_scratch(name, model, **(settings | changes))


def _variant(parent: ClassificationRecipe, name: str, **changes: Any) -> ClassificationRecipe:
    return replace(parent, **{"name": name, "parent": parent.name, "released": name, **changes})


def _without_lr_decay(parent: ClassificationRecipe) -> ClassificationRecipe:
    """The released multiplier of offset rates has no effect without the decay, so it goes too."""
    name = f"{parent.name}_without_lr_decay"
    return _variant(parent, name, layer_decay=None, dcn_lr_mul=None, released=parent.released)
