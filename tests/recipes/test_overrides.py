"""Recipes changed by texts, and compared."""

from __future__ import annotations

import pytest

from internimage.recipes import differences, get_recipe, override
from internimage.recipes.overrides import Difference, flat


def recipe():
    return get_recipe("internimage_l_22kto1k_384")


@pytest.mark.parametrize(
    ("text", "field", "want"),
    [
        ("epochs=3", "epochs", 3),
        ("lr=1e-4", "lr", 1e-4),
        ("lr=1", "lr", 1.0),
        ("clip_grad=none", "clip_grad", None),
        ("clip_grad=2", "clip_grad", 2.0),
        ("rates_for_batch=None", "rates_for_batch", None),
        ("crop=no", "crop", False),
        ("crop=True", "crop", True),
        ("betas=0.9,0.95", "betas", (0.9, 0.95)),
        ("betas=(0.9, 0.95)", "betas", (0.9, 0.95)),
        ("frozen_levels=0,1", "frozen_levels", (0, 1)),
        ("frozen_levels=", "frozen_levels", ()),
        ("image_sizes=128", "image_sizes", (128,)),
        ("image_sizes=[128, 192]", "image_sizes", (128, 192)),
        ("data=/a=b", "data", "/a=b"),
        ("dataset=none", "dataset", None),
        (" schedule = linear ", "schedule", "linear"),
    ],
)
def test_a_text_is_read_by_the_type_of_its_field(text, field, want):
    got = getattr(override(recipe(), [text]), field)
    assert got == want and type(got) is type(want)


def test_fields_inside_fields_go_by_a_dot_and_leave_the_others():
    changed = override(
        recipe(),
        ["transform.erase=0.5", "transform.auto_augment=none", "mixing.mixup=0.2", "model_changes.depths=1,1,2,1",
         "model_changes.layer_scale=none"],
    )  # fmt: skip
    assert (changed.transform.erase, changed.transform.auto_augment, changed.transform.flip) == (0.5, None, 0.5)
    assert changed.mixing.mixup == 0.2 and changed.mixing.cutmix == 0.0
    assert changed.model_changes == {"depths": (1, 1, 2, 1), "layer_scale": None}
    assert recipe().model_changes == {}, "the recipe itself stays"


def test_fields_that_only_fit_together_are_set_at_once():
    changed = override(recipe(), ["layer_decay=none", "dcn_lr_mul=none"])
    assert changed.layer_decay is None and changed.dcn_lr_mul is None


def test_another_source_puts_back_how_the_old_one_changes_pictures():
    own = get_recipe("own_pictures")
    changed = override(own, ["source=files"])
    assert changed.source == "files" and changed.augmentation == type(own.augmentation)() != own.augmentation
    assert override(own, ["source=memory"]).augmentation == own.augmentation
    with pytest.raises(ValueError, match="augmentation goes with source='memory'"):
        override(own, ["source=files", "augmentation.flip=no"])


def test_the_last_of_the_same_key_counts():
    assert override(recipe(), ["epochs=3", "epochs=4"]).epochs == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs", "--set 'epochs' is no override, expected key=value, such as lr=1e-4"),
        ("=3", "is no override"),
        ("epoch=3", "recipes have no 'epoch' .did you mean 'epochs'..; `internimage recipes show NAME` lists all"),
        ("mixup=3", "recipes have no 'mixup' .did you mean 'mixing.mixup'"),
        ("mixing.mixupp=3", "recipes have no 'mixing.mixupp' .did you mean 'mixing.mixup'"),
        ("model_changes.depth=3", "did you mean 'model_changes.depths'"),
        ("LR=3", "recipes have no 'LR' .did you mean 'lr'"),
        ("wd=3", "did you mean 'weight_decay'"),
        ("ema=3", "did you mean 'ema_decay'"),
        ("learning_rate=3", "did you mean 'lr'"),
        ("zzzzzz=3", "recipes have no 'zzzzzz'; `internimage"),
        ("mixing=3", "mixing has fields of its own; set one of mixing.mixup, mixing.cutmix"),
        ("epochs=3.5", "epochs=3.5 does not fit: expected an integer"),
        ("lr=fast", "lr=fast does not fit: expected a number"),
        ("clip_grad=much", "clip_grad=much does not fit: expected a number, or none"),
        ("crop=2", "crop=2 does not fit: expected true or false"),
        ("betas=0.9", "betas=0.9 does not fit: expected 2 values between commas, each a number"),
        ("image_sizes=a,b", "expected values between commas, each an integer"),
        ("lr=none", "lr=none does not fit: expected a number"),
        ("lr=-1", "lr is -1.0, expected a number above 0"),
        ("mixing.mode=all", "mode is 'all', expected one of"),
        ("layer_decay=none", "dcn_lr_mul is 0.1 without layer_decay"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_message_helps(text, message):
    with pytest.raises(ValueError, match=message):
        override(recipe(), [text])


def test_what_every_field_is_written_as_can_be_set_again():
    written = {
        key: ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for key, value in flat(recipe()).items()
    }
    assert override(recipe(), [f"{key}={value}" for key, value in written.items()]) == recipe()


def test_differences_name_inner_fields_and_not_what_the_recipes_are_called():
    changed = override(recipe(), ["epochs=3", "mixing.mixup=0.2", "model_changes.channels=32"])
    assert Difference("epochs", 20, 3) in differences(recipe(), changed)
    assert {tuple(row) for row in differences(recipe(), changed)} == {
        ("epochs", 20, 3), ("mixing.mixup", 0.0, 0.2), ("model_changes.channels", None, 32),
    }  # fmt: skip
    assert differences(recipe(), recipe()) == []
