"""The recipes: what they say in words is what they say in fields, and the fields are the released ones."""

from __future__ import annotations

import inspect
import re
from dataclasses import asdict, replace

import pytest
import torch

import internimage
from internimage.data.augment import Augmentation
from internimage.data.mixing import Mixing as Mixer
from internimage.data.training_transform import TrainingTransform
from internimage.models import InternImageClassifier, get_config
from internimage.recipes import RECIPES, ClassificationRecipe, Mixing, Transform, differences, get_recipe
from internimage.recipes.catalog import LABELS, description, remarks
from internimage.recipes.classification import DATASETS, smoke
from internimage.weights import catalog

RELEASED = [name for name in RECIPES if name not in ("internimage_femto", "own_pictures")]
IMAGES = {"imagenet-1k": 1_281_167, "imagenet-22k": 14_197_122, "inaturalist-2018": 437_513, None: 55_000}
FROM_SCRATCH = [name for name in RELEASED if "1k_224" in name]
FINE_TUNING = [name for name in RELEASED if "22kto1k" in name]

# From the released configurations: model, side, epochs, warm-up, drop path, layer decay.
TABLE = {
    "internimage_t_1k_224": ("internimage_t", 224, 300, 20, 0.1, None),
    "internimage_s_1k_224": ("internimage_s", 224, 300, 20, 0.4, None),
    "internimage_b_1k_224": ("internimage_b", 224, 300, 20, 0.5, None),
    "internimage_l_22k_192": ("internimage_l", 192, 90, 5, 0.1, None),
    "internimage_xl_22k_192": ("internimage_xl", 192, 90, 5, 0.2, None),
    "internimage_l_22kto1k_384": ("internimage_l", 384, 20, 2, 0.1, 0.9),
    "internimage_xl_22kto1k_384": ("internimage_xl", 384, 20, 2, 0.2, 0.9),
    "internimage_h_22kto1k_384": ("internimage_h", 384, 20, 2, 0.2, 0.9),
    "internimage_h_22kto1k_640": ("internimage_h", 640, 20, 2, 0.2, 0.9),
    "internimage_g_22kto1k_512": ("internimage_g", 512, 20, 2, 0.4, 0.9),
    "internimage_t_1k_224_without_lr_decay": ("internimage_t", 224, 300, 20, 0.1, None),
    "internimage_s_1k_224_without_lr_decay": ("internimage_s", 224, 300, 20, 0.4, None),
    "internimage_b_1k_224_without_lr_decay": ("internimage_b", 224, 300, 20, 0.5, None),
    "internimage_l_22kto1k_384_without_lr_decay": ("internimage_l", 384, 20, 2, 0.1, None),
    "internimage_xl_22kto1k_384_without_lr_decay": ("internimage_xl", 384, 20, 2, 0.2, None),
    "internimage_h_22kto1k_640_without_lr_decay": ("internimage_h", 640, 20, 2, 0.2, None),
    "internimage_g_22kto1k_512_without_lr_decay": ("internimage_g", 512, 20, 2, 0.4, None),
    "internimage_h_22ktoinat18_384": ("internimage_h_meta", 384, 100, 0, 0.6, None),
    "flash_intern_image_t_1k_224": ("flash_internimage_t", 224, 300, 20, 0.1, None),
    "flash_intern_image_s_1k_224": ("flash_internimage_s", 224, 300, 20, 0.4, None),
    "flash_intern_image_b_1k_224": ("flash_internimage_b", 224, 300, 20, 0.5, None),
    "flash_intern_image_l_22kto1k_384": ("flash_internimage_l", 384, 20, 2, 0.1, 0.9),
}


@pytest.mark.parametrize("name", RELEASED)
def test_the_released_configurations(name):
    recipe = get_recipe(name)
    row = (recipe.model, recipe.image_size, recipe.epochs, recipe.warmup_epochs, recipe.drop_path_rate)
    assert (*row, recipe.layer_decay) == TABLE[name]
    assert recipe.name == name and recipe.source == "files" and recipe.dtype == "float16"
    assert (recipe.weight_decay, recipe.clip_grad, recipe.betas, recipe.eps) == (0.05, 5.0, (0.9, 0.999), 1e-8)
    assert recipe.dcn_lr_mul == (None if recipe.layer_decay is None else 0.1) and recipe.schedule == "cosine"
    assert recipe.ema_decay == (0.0 if "22k_192" in name or "inat" in name else 0.9999) and not recipe.ema_warmup
    assert recipe.preprocessing == internimage.data.transforms.Preprocessing(image_size=recipe.image_size)


def test_the_table_has_all_of_them():
    assert RELEASED == list(TABLE)


@pytest.mark.parametrize("name", FROM_SCRATCH)
def test_from_scratch(name):
    recipe = get_recipe(name)
    assert (recipe.lr, recipe.min_lr, recipe.warmup_lr, recipe.rates_for_batch) == (5e-4, 5e-6, 5e-7, 512)
    assert recipe.rates == pytest.approx((4e-3, 4e-5, 4e-6)) and recipe.batch_size == 4096
    assert recipe.mixing == Mixing(mixup=0.8, cutmix=1.0) and recipe.transform.erase == 0.25
    assert recipe.label_smoothing == 0.1 and not recipe.pretrained and not recipe.grad_checkpointing


def test_pre_training_has_the_rate_of_the_paper():
    recipe = get_recipe("internimage_xl_22k_192")
    assert recipe.rates.lr == pytest.approx(1e-3) and recipe.batch_size == 4096
    assert recipe.mixing == Mixing(mixup=0.8, cutmix=1.0) and recipe.transform.erase == 0.25
    assert DATASETS[recipe.dataset] == 21841 and recipe.held_out == 0


@pytest.mark.parametrize("name", [*FINE_TUNING, "internimage_h_22ktoinat18_384"])
def test_fine_tuning(name):
    recipe = get_recipe(name)
    assert recipe.rates == (2e-5, 0.0, 0.0) and recipe.batch_size == 512
    assert recipe.grad_checkpointing is ("internimage_l_" in name or "intern_image_l_" in name)  # as released
    assert recipe.label_smoothing == 0.3 and not recipe.mixing and recipe.transform == Transform(erase=0.0)
    start = catalog.get(recipe.pretrained)
    assert start.num_classes == 21841 and recipe.model.startswith(start.model)
    if recipe.released:
        assert catalog.get(recipe.released).pretraining == recipe.pretrained


def test_the_metadata_recipe_begins_its_classifier_small_and_at_random():
    recipe = get_recipe("internimage_h_22ktoinat18_384")
    assert recipe.metadata and (recipe.head_start, recipe.head_init_scale) == ("random", 0.001)
    assert not any(get_recipe(name).metadata for name in RECIPES if name != recipe.name)


@pytest.mark.parametrize("name", RECIPES)
def test_the_docstring_says_what_the_fields_say(name):
    recipe, said = get_recipe(name), remarks(name)
    assert description(name) and set(said) <= set(LABELS) and {"Cost", "Ours"} <= set(said)
    size = f"{recipe.image_size}x{recipe.image_size}"
    images = "" if name == "own_pictures" else f" x {IMAGES[recipe.dataset]:,} images"
    assert said["Cost"].startswith(f"{recipe.epochs} epochs{images} at {size}, {recipe.batch_size:,} a step")
    for pixels in re.findall(r"(\d+) pixels|(\d+)x\d+", inspect.getdoc(RECIPES[name])):
        assert int(max(pixels)) == recipe.image_size or name == "internimage_l_22k_192"  # which names the next size too


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "own_pictures"])
def test_the_docstring_counts_the_parameters(name):
    recipe = get_recipe(name)
    classes = DATASETS[recipe.dataset] if recipe.dataset else 10
    model = internimage.create_model(recipe.model, num_classes=classes, device="meta")
    count = sum(parameter.numel() for parameter in model.parameters())
    assert f" {count / 1e6:,.1f} M parameters" in remarks(name)["Cost"]


@pytest.mark.parametrize("name", RELEASED)
def test_the_published_score_is_that_of_the_released_file(name):
    recipe, published = get_recipe(name), remarks(name)["Published"]
    if not recipe.released:
        assert published.startswith("none")
        return
    entry = catalog.get(recipe.released)
    assert published == f"{entry.scores['top1']:.1f} % top-1."
    assert entry.resolution == (recipe.image_size, recipe.image_size) and recipe.model.startswith(entry.model)
    assert entry.num_classes == DATASETS[recipe.dataset]


@pytest.mark.parametrize("name", RECIPES)
def test_a_parent_is_a_recipe_and_what_differs_is_told(name):
    recipe = get_recipe(name)
    if recipe.parent:
        keys = {row.key for row in differences(get_recipe(recipe.parent), recipe)}
        assert bool(keys) is not (name.endswith("without_lr_decay") and "1k_224" in name)


def test_without_lr_decay_only_the_decay_differs():
    for name in FINE_TUNING:
        if name.endswith("_without_lr_decay"):
            recipe = get_recipe(name)
            assert {row.key for row in differences(get_recipe(recipe.parent), recipe)} == {"layer_decay", "dcn_lr_mul"}


def test_the_settings_of_augmentation_reach_timm():
    recipe = get_recipe("internimage_t_1k_224")
    made = TrainingTransform(
        recipe.image_size,
        interpolation=recipe.interpolation,
        mean=recipe.mean,
        std=recipe.std,
        **asdict(recipe.transform),
    )
    steps = {type(step).__name__: step for step in made.steps.transforms}
    crop, flip, erasing = (
        steps["RandomResizedCropAndInterpolation"],
        steps["RandomHorizontalFlip"],
        steps["RandomErasing"],
    )
    assert crop.size == (224, 224) and crop.scale == (0.08, 1.0) and crop.ratio == (3 / 4, 4 / 3)
    assert flip.p == 0.5 and "RandAugment" in steps and "ColorJitter" not in steps
    assert all(op.magnitude == 9 and op.magnitude_std == 0.5 for op in steps["RandAugment"].ops)
    assert (erasing.probability, erasing.min_count, erasing.max_count, erasing.mode) == (0.25, 1, 1, "pixel")
    assert torch.allclose(torch.as_tensor(steps["Normalize"].mean), torch.tensor([0.485, 0.456, 0.406]))
    gentle = TrainingTransform(384, **asdict(get_recipe("internimage_l_22kto1k_384").transform))
    assert "RandomErasing" not in {type(step).__name__ for step in gentle.steps.transforms}


def test_the_settings_of_mixing_reach_timm():
    recipe = get_recipe("internimage_t_1k_224")
    mix = Mixer(1000, label_smoothing=recipe.label_smoothing, seed=recipe.seed, **asdict(recipe.mixing))._mix
    assert (mix.mixup_alpha, mix.cutmix_alpha, mix.cutmix_minmax, mix.mix_prob) == (0.8, 1.0, None, 1.0)
    assert (mix.switch_prob, mix.label_smoothing, mix.mode, mix.num_classes) == (0.5, 0.1, "batch", 1000)
    assert not Mixing() and not Mixing(mixup=1.0, prob=0.0) and Mixing(cutmix_minmax=(0.2, 0.8))


@pytest.mark.parametrize("name", RECIPES)
def test_smoke_is_a_tiny_model_of_the_same_family(name):
    recipe, small = get_recipe(name), smoke(get_recipe(name))
    assert small.model == recipe.model and small.data == "synthetic" and small.parent == name != small.name
    with torch.device("meta"):
        model = InternImageClassifier(get_config(small.model, **small.model_changes), 2)
    assert sum(parameter.numel() for parameter in model.parameters()) < 12e6
    assert model.config.core_op == ("DCNv4" if "flash" in name else "DCNv3")


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(ValueError, match="no recipe 'internimage_fempto'; did you mean 'internimage_femto'"):
        get_recipe("internimage_fempto")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "disk"}, "source is 'disk', expected one of 'memory', 'files'"),
        ({"dataset": "imagenet"}, "dataset is 'imagenet', expected one of 'imagenet-1k', .*, or None"),
        ({"image_sizes": ()}, r"image_sizes is \(\), expected a tuple of pixels"),
        ({"image_sizes": (0,)}, r"image_sizes is \(0,\)"),
        ({"channels": 1}, r"mean is \(.*\), expected as many numbers as channels=1"),
        ({"interpolation": "cubic"}, "interpolation is 'cubic', expected one of 'nearest'"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0, expected a number from 0 to below 1"),
        ({"augmentation": Augmentation(flip=True)}, "augmentation goes with source='memory', but source is 'files'"),
        ({"source": "memory", "transform": Transform(flip=0.0)}, "transform goes with source='files'"),
        ({"head_start": "zero"}, "head_start is 'zero', expected one of 'pretrained', 'random'"),
        (
            {"model_changes": {"in_chans": 1}},
            "model_changes is .*channels of the image and drop path are fields of the",
        ),
        ({"model_changes": {"colour": 1}}, "model_changes is .*expected a dict of fields of InternImageConfig"),
        ({"cache": "disk"}, "cache is 'disk', expected one of 'memory', or None"),
    ],
)
def test_what_means_nothing_is_refused(changes, message):
    recipe = ClassificationRecipe(name="x", epochs=1, batch_size=2, lr=0.1, model="internimage_t", image_sizes=(32,))
    with pytest.raises(ValueError, match=message):
        replace(recipe, **changes)


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        (Transform, {"scale": (0.5, 1.5)}, r"scale is \(0.5, 1.5\), expected two shares above 0, at most 1"),
        (Transform, {"ratio": (2.0, 1.0)}, r"ratio is \(2.0, 1.0\), expected two numbers above 0, the smaller one"),
        (Transform, {"flip": 2}, "flip is 2, expected a number from 0 to 1"),
        (Transform, {"auto_augment": ""}, "auto_augment is '', expected timm's words, or None"),
        (Transform, {"erase_count": 0}, "erase_count is 0"),
        (Mixing, {"mixup": -1.0}, "mixup is -1.0, expected a number >= 0"),
        (Mixing, {"mode": "all"}, "mode is 'all', expected one of 'batch', 'pair', 'elem'"),
        (Mixing, {"cutmix_minmax": (0.8, 0.2)}, "cutmix_minmax"),
    ],
)
def test_augmentation_that_means_nothing_is_refused(settings, changes, message):
    with pytest.raises(ValueError, match=message):
        settings(**changes)
