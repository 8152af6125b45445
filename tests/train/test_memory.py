"""The estimate of memory against what PyTorch's allocator counts in real steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from internimage.bench.memory import peak_allocation
from internimage.models import create_model
from internimage.planning.budget import Setting, budget, setting_of
from internimage.planning.memory import Step, step_peak
from internimage.planning.remedies import fits, released_estimates, remedies, ways
from internimage.recipes import get_recipe

SMALL = dict(channels=32, depths=(1, 1, 3, 1), groups=(2, 4, 8, 16))
NETWORKS = {
    "dcnv3": ("internimage_t", SMALL),
    "dcnv3_scaled": ("internimage_b", SMALL),
    "dcnv4": ("flash_internimage_t", SMALL),
    "batch_norm": ("internimage_femto", dict(in_chans=3)),
    "attention_pool": ("internimage_h", {**SMALL, "level2_post_norm_block_ids": (1,)}),
}
WITHIN = 0.15  # what the plan promises
ONE = Setting(model="internimage_t", batch_size=16, image_size=64, changes=tuple(SMALL.items()), num_classes=10)
GIB = 2**30


def measured(name: str, changes: dict, step: Step) -> int:
    """Bytes above weights and input in a real forward and backward pass."""
    model = create_model(name, backend="cpu", **changes).train()
    model.set_grad_checkpointing(step.checkpointing)
    image = torch.randn(step.batch_size, 3, step.image_size, step.image_size)

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=step.dtype == "bfloat16"):
            loss = model(image).float().logsumexp(-1).mean()
        loss.backward()

    run()  # buffers of the libraries are made
    model.zero_grad(set_to_none=True)
    return peak_allocation(run)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_step_takes_what_is_estimated(network, dtype, checkpointing):
    name, changes = NETWORKS[network]
    side = 160 if network == "attention_pool" else 96  # its wide head has oneDNN take 8 MiB for itself in bfloat16
    step = Step(batch_size=8, image_size=side, dtype=dtype, checkpointing=checkpointing, device="cpu")
    estimate = step_peak(create_model(name, device="meta", backend="cpu", **changes), step).fresh
    assert estimate == pytest.approx(measured(name, changes, step), rel=WITHIN)


def test_activations_grow_with_the_batch_and_shrink_with_checkpointing():
    one, two = (budget(replace(ONE, batch_size=n)).activations for n in (16, 32))
    assert two == pytest.approx(2 * one, rel=0.1)
    assert budget(replace(ONE, checkpointing=True)).activations < 0.7 * one


def test_a_card_keeps_more_under_autocast_than_the_cpu():
    """Its norms compute in float32."""
    card, cpu = (budget(replace(ONE, dtype="bfloat16", device=device)).activations for device in ("cuda", "cpu"))
    assert 1.2 * cpu < card < budget(ONE).activations


def test_the_line_between_two_batches_is_no_less_than_the_truth():
    exact = budget(replace(ONE, accumulation=4)).activations
    assert exact <= budget(replace(ONE, accumulation=4), largest=16).activations <= 1.1 * exact


def test_parts_of_one_process():
    """AdamW keeps two numbers for each weight, SGD one; frozen levels have neither these nor gradients."""
    parameters = 4 * sum(p.numel() for p in create_model("internimage_t", num_classes=10, **SMALL).parameters())
    whole = budget(replace(ONE, average=True))
    assert whole.gradients == parameters and whole.optimizer == 2 * parameters
    assert whole.weights == whole.average >= parameters and whole.host == 0
    assert budget(replace(ONE, optimizer="sgd")).optimizer == parameters
    assert budget(replace(ONE, frozen_levels=(3,))).optimizer < 2 * parameters


def test_shards_are_a_share_of_all_processes():
    eight = replace(ONE, batch_size=128, processes=8, average=True, strategy="ddp")
    ddp, first, second, third, fsdp2 = (
        budget(replace(eight, strategy=name)) for name in ("ddp", "deepspeed-1", "deepspeed-2", "deepspeed-3", "fsdp2")
    )
    assert first.optimizer == pytest.approx(3 * ddp.gradients / 8, abs=8)  # with the copy that is stepped on
    assert first.gradients == ddp.gradients and second.gradients == ddp.gradients // 8
    assert third.weights < ddp.weights / 7 and fsdp2.average < ddp.average / 7
    offloaded = budget(replace(eight, strategy="deepspeed-3", offload=True))
    assert offloaded.weights == offloaded.optimizer == 0 and offloaded.host > 0


def test_remedies_fit_and_keep_the_batch():
    setting = replace(ONE, batch_size=64, processes=4, strategy="ddp", image_size=96)
    least, most = (budget(replace(setting, batch_size=n)).total / GIB + 1 for n in (4, 64))
    memory = (least + most) / 2
    assert not fits(budget(setting).total, memory, "cuda")
    found = remedies(setting, memory)
    assert found and all(fits(budget(each).total, memory, "cuda") for each in found)
    assert {each.batch_size for each in found} == {64} and found[0].strategy == "ddp"
    assert remedies(setting, 0.5) == []


def test_ways_of_one_process_and_of_many():
    assert ("single", False) in ways(1) and ("ddp", False) not in ways(1)
    assert ("ddp", False) in ways(2) and ("deepspeed-3", True) in ways(2) and ("ddp", True) not in ways(2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"processes": 3, "strategy": "ddp"}, "batch_size is 16, which 3 processes with accumulation 1 do not share"),
        ({"offload": True}, "strategy single cannot offload; those that can: fsdp2"),
        ({"processes": 2}, "strategy single is for one process, there are 2; try ddp"),
    ],
)
def test_settings_that_mean_nothing(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(ONE, **changes)


def test_a_recipe_is_planned_as_it_trains():
    setting = setting_of(get_recipe("internimage_l_22kto1k_384"), processes=32, strategy="ddp")
    assert (setting.model, setting.image_size, setting.micro_batch_size) == ("internimage_l", 384, 16)
    assert setting.checkpointing and setting.average and setting.dtype == "float16"


def test_only_h_has_released_figures():
    assert released_estimates(ONE) == []
