"""``internimage plan``."""

from __future__ import annotations

import pytest

QUICK = ("--image-size", "32", "--batch-size", "8")


def test_json_says_what_each_strategy_takes(internimage):
    got = internimage("plan", "own_pictures", *QUICK, "--gpus", "2", "--memory", "4", "--json")
    assert got.code == 0, got.err
    rows = {(row["strategy"], row["offload"]): row for row in got.json["strategies"]}
    assert len(rows) == 8 and all(row["fits"] for row in rows.values())
    assert rows["ddp", False]["optimizer"] == 2 * rows["fsdp2", False]["optimizer"] > 0
    for row in rows.values():
        passing = row["gradients"] + row["activations"] + row["buffers"]
        lasting = row["weights"] + row["optimizer"] + row["average"]
        assert row["total"] == lasting + max(passing, row["evaluation"])
    assert got.json["remedies"] is None and got.json["setting"]["micro_batch_size"] == 4


def test_what_to_change_is_said(internimage):
    got = internimage("plan", "own_pictures", "--batch-size", "512", "--image-size", "56", "--memory", "1.4")
    assert got.code == 0, got.err
    assert "single does not fit 1.4 GiB; these do:\n  --accumulation 4" in got.out
    assert "--set grad_checkpointing=true" in got.out


def test_strategies_that_muon_does_without_are_left_out_and_why_is_said(internimage):
    got = internimage("plan", "internimage_femto", *QUICK, "--gpus", "2")
    assert got.code == 0 and "ddp" in got.out and "fsdp2" not in got.out
    assert "muon wants whole weights and gradients" in got.out


def test_a_model_without_a_recipe_is_planned_too(internimage):
    got = internimage("plan", "flash_internimage_t", *QUICK)
    assert got.code == 0 and "flash_internimage_t: 8 images of 32x32 a step" in got.out and "fits" not in got.out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["internimage_femta"], 1, "did you mean 'internimage_femto'?"),
        (["internimage_femto", "--strategy", "fsdp3"], 2, "expected one of single, ddp, fsdp2"),
        (["internimage_femto", "--dtype", "int8"], 2, "expected one of float32,"),
        (["internimage_femto", "--gpus", "3"], 1, "expected a multiple of 3"),
        (["internimage_femto", "--offload"], 1, "strategy single cannot offload"),
        (["internimage_femto", "--memory", "-1"], 2, "expected a number above 0"),
    ],
)
def test_bad_input_is_one_line(internimage, arguments, code, message):
    got = internimage("plan", *arguments)
    assert got.code == code and message in got.err.replace("\n", " ").replace("│", "").replace("  ", " ")


@pytest.mark.slow
def test_released_figures_of_h_stand_beside_the_estimate(internimage):
    got = internimage("plan", "internimage_h_22kto1k_384", "--gpus", "8", "--json")
    assert got.code == 0, got.err
    rows = got.json["released"]
    assert [row["stated_mib"] for row in rows] == [22572, 20000, 19144, 16000, 11928]
    assert all(0.5 < row["estimate_mib"] / row["stated_mib"] < 2 for row in rows)
