"""internimage recipes."""

from __future__ import annotations

import dataclasses

from internimage.cli.recipes import GROUPS
from internimage.recipes import RECIPES, ClassificationRecipe


def test_list_has_every_recipe_with_its_published_score(internimage):
    got = internimage("recipes", "list")
    assert got.code == 0 and all(name in got.out for name in RECIPES)
    line = next(line for line in got.out.splitlines() if line.split()[:1] == ["internimage_g_22kto1k_512"])
    assert line.split() == "internimage_g_22kto1k_512 internimage_g imagenet-1k 512 20 512 90.1 %".split()
    rows = internimage("recipes", "list", "--json").json["recipes"]
    assert [row["name"] for row in rows] == list(RECIPES)
    assert rows[2]["ours"] == "not trained here" and "29.9 M parameters" in rows[2]["cost"]


def test_list_takes_a_word(internimage):
    got = internimage("recipes", "list", "INATURALIST")
    assert "internimage_h_22ktoinat18_384" in got.out and f"1 of {len(RECIPES)} recipes" in got.out
    assert "no recipe has 'nothing'" in internimage("recipes", "list", "nothing").out


def test_show_says_cost_results_every_field_and_what_differs_from_the_parent(internimage):
    got = internimage("recipes", "show", "internimage_s_1k_224")
    words = " ".join(got.out.split())
    assert got.code == 0 and "Published: 84.2 % top-1. Ours: not trained here." in words
    assert "mixing.cutmix 1" in words and "lr 0.0005 (for 512 images; 0.004 for 4096)" in words
    assert "What differs from its parent" in words and "drop_path_rate 0.1 0.4" in words
    assert "augmentation.shift" not in words, "what is meant for pictures in memory only"
    shown = internimage("recipes", "show", "internimage_s_1k_224", "--json").json
    assert shown["fields"]["transform"]["auto_augment"] == "rand-m9-mstd0.5-inc1"
    assert {"key": "drop_path_rate", "left": 0.1, "right": 0.4} in shown["differs_from_parent"]


def test_show_has_every_field_in_one_group():
    fields = [field for group in GROUPS.values() for field in group]
    assert sorted(fields) == sorted(field.name for field in dataclasses.fields(ClassificationRecipe))


def test_show_takes_changes(internimage):
    got = internimage("recipes", "show", "own_pictures", "--set", "lr=2e-3", "--set", "augmentation.flip=no")
    words = " ".join(got.out.split())
    assert "What --set changes" in words and "augmentation.flip yes no" in words and "lr 0.001 0.002" in words


def test_diff_shows_what_differs(internimage):
    got = internimage("recipes", "diff", "internimage_t_1k_224", "internimage_s_1k_224")
    assert [line.split() for line in got.out.strip().splitlines()] == [
        ["field", "internimage_t_1k_224", "internimage_s_1k_224"],
        ["model", "internimage_t", "internimage_s"],
        ["drop_path_rate", "0.1", "0.4"],
    ]
    json = internimage("recipes", "diff", "internimage_t_1k_224", "internimage_s_1k_224", "--json").json
    assert json["differences"][1] == {"key": "drop_path_rate", "left": 0.1, "right": 0.4}
    same = internimage("recipes", "diff", "internimage_t_1k_224", "internimage_t_1k_224_without_lr_decay")
    assert "differ in nothing but their names" in same.out


def test_bad_input_is_one_line(internimage):
    for arguments, message in (
        (("show", "internimage_x"), "there is no recipe 'internimage_x'; did you mean"),
        (("show", "own_pictures", "--set", "colour=red"), "recipes have no 'colour'"),
        (("diff", "own_pictures", "others"), "there is no recipe 'others'"),
    ):
        got = internimage("recipes", *arguments)
        assert got.code == 1 and got.out == "" and got.err.startswith("error: ") and message in got.err
        assert got.err.count("\n") == 1


def test_help_shows_an_example(internimage):
    for command in ((), ("list",), ("show",), ("diff",)):
        assert "Example: internimage recipes" in " ".join(internimage("recipes", *command, "--help").out.split())
