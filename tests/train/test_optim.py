"""Parameter groups beyond what was recorded: H, DCNv4, queries and offsets of heads, freezing, kinds of optimizer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import internimage
from internimage.processes import Processes
from internimage.recipes.training import TrainingRecipe
from internimage.train.layer_decay import classification_paces, dense_prediction_paces
from internimage.train.optim import freeze_levels, make_optimizer
from internimage.train.state import new_state
from internimage.train.strategies import make_strategy

from .toy import Line


def meta(name: str) -> nn.Module:
    return internimage.create_model(name, device="meta")


def recipe(**changes) -> TrainingRecipe:
    return TrainingRecipe(**{"name": "toy", "epochs": 1, "batch_size": 8, "lr": 0.1, **changes})


def test_norms_inside_the_third_level_of_the_large_ones_learn_at_the_full_rate():
    paces = classification_paces(meta("internimage_h").named_parameters(), 0.05, 0.9, 0.1)
    scales = {name: pace.lr_scale for name, pace in paces.items()}
    assert scales["backbone.levels.2.post_norms.0.weight"] == scales["head.fc.weight"] == 1.0
    assert scales["backbone.levels.3.blocks.5.mlp.fc1.weight"] == 1.0
    assert scales["backbone.stem.conv1.weight"] == pytest.approx(0.9**49)
    center = "backbone.levels.3.blocks.5.dcn.center_feature_scale_proj"
    assert paces[f"{center}.weight"] == (pytest.approx(0.1), 0.05) and paces[f"{center}.bias"].weight_decay == 0
    assert {scales[name] for name in scales if not name.startswith("backbone.")} == {1.0}


def test_dcnv4_predicts_offsets_and_weights_in_one_layer_and_both_are_slowed():
    paces = classification_paces(meta("flash_internimage_s").named_parameters(), 0.05, 0.9, 0.1)
    block = "backbone.levels.3.blocks.3"
    assert paces[f"{block}.dcn.offset_mask.weight"].lr_scale == pytest.approx(0.1)
    assert paces[f"{block}.dcn.offset_mask_dw.weight"].lr_scale == pytest.approx(0.1)
    assert paces[f"{block}.dcn.value_proj.weight"].lr_scale == 1.0


def test_any_prefix_will_do():
    model = meta("internimage_t")
    plain = classification_paces(model.named_parameters(), 0.05, 0.9, 0.1)
    wrapped = classification_paces([(f"module.{name}", p) for name, p in model.named_parameters()], 0.05, 0.9, 0.1)
    assert list(wrapped.values()) == list(plain.values())


def dense(names: dict[str, int], **options):
    parameters = [(name, torch.empty([1] * ndim)) for name, ndim in names.items()]
    arguments = {"depths": (6, 6, 32, 6), "num_layers": 50, "layer_decay_rate": 0.95, **options}
    return dense_prediction_paces(parameters, 0.05, **arguments)


def test_the_dense_rule_for_norms_queries_and_what_it_does_not_know():
    names = {
        "backbone.levels.2.post_norms.3.weight": 1,
        "backbone.levels.3.norm.weight": 1,
        "decode_head.query_embed.weight": 2,
        "backbone.cb_modules.0.stem.conv1.weight": 4,
        "backbone.cb_modules.1.levels.0.blocks.0.mlp.fc1.weight": 2,
        "bbox_head.transformer.level_embeds": 2,
    }
    full, layers = 1.0, 51
    detection = [pace.lr_scale for pace in dense(names).values()]
    numbers = (1 + 6 + 6 + 3, 1 + 6 + 6 + 32, layers, layers, layers, 0)
    assert detection == pytest.approx([0.95 ** (layers - number) for number in numbers])
    segmentation = dense(names, segmentation=True)
    assert segmentation["decode_head.query_embed.weight"].lr_scale == pytest.approx(0.95**layers)
    assert segmentation["backbone.cb_modules.0.stem.conv1.weight"].lr_scale == pytest.approx(0.95**layers)
    assert segmentation["backbone.cb_modules.1.levels.0.blocks.0.mlp.fc1.weight"].lr_scale == full


def test_the_dense_rule_scales_the_offsets_of_attention_and_of_dcnv4_only():
    names = {
        "backbone.levels.3.blocks.5.dcn.offset.weight": 2,
        "backbone.levels.3.blocks.5.dcn.offset_mask.weight": 2,
        "backbone.levels.3.blocks.5.dcn.offset_mask_dw.weight": 4,
        "head.encoder.sampling_offsets.weight": 2,
        "head.reference_points.weight": 2,
    }
    detection = dense(names, layer_decay_rate=1.0, offset_lr_scale=0.1)
    assert [pace.lr_scale for pace in detection.values()] == pytest.approx([1, 0.1, 1, 0.1, 0.1])
    assert detection["head.encoder.sampling_offsets.weight"].weight_decay == 0
    segmentation = dense(names, layer_decay_rate=1.0, offset_lr_scale=0.1, segmentation=True)
    assert [pace.lr_scale for pace in segmentation.values()] == pytest.approx([1, 0.1, 1, 1, 1])


def test_frozen_levels_stay_out_of_the_optimizer_and_count_as_layers():
    model = internimage.create_model("internimage_femto")
    before = {name: pace.lr_scale for name, pace in classification_paces(model.named_parameters(), 0.05, 0.9).items()}
    freeze_levels(model, (0, 2))
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name in before if "levels.0." in name or "levels.2." in name}
    optimizer = make_optimizer(model, recipe(layer_decay=0.9))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    got = {names[id(p)]: group["lr"] / 0.1 for group in optimizer.param_groups for p in group["params"]}
    assert got == {name: pytest.approx(scale) for name, scale in before.items() if name not in frozen}


def test_a_level_that_is_not_there_cannot_be_frozen():
    with pytest.raises(ValueError, match="frozen_levels has 1, but the model has no such level"):
        freeze_levels(nn.Linear(2, 2), (1,))


def test_the_kind_of_optimizer_and_its_numbers():
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    adamw = make_optimizer(model, recipe(betas=(0.8, 0.95), eps=1e-6, weight_decay=0.3))
    assert isinstance(adamw, torch.optim.AdamW) and adamw.defaults["betas"] == (0.8, 0.95)
    assert adamw.defaults["eps"] == 1e-6 and [group["weight_decay"] for group in adamw.param_groups] == [0.3, 0.0]
    sgd = make_optimizer(model, recipe(optimizer="sgd", momentum=0.7))
    assert isinstance(sgd, torch.optim.SGD) and sgd.defaults["momentum"] == 0.7 and sgd.defaults["nesterov"]


def test_muon_makes_steps_of_matrices_orthogonal_and_leaves_vectors_to_adam():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6))
    optimizer = make_optimizer(model, recipe(optimizer="muon", lr=0.01, weight_decay=0.0))
    weight, bias = model[0].weight.detach().clone(), model[1].bias.detach().clone()
    (model(torch.randn(16, 8)) * torch.randn(6)).square().sum().backward()
    optimizer.step()
    lengths = torch.linalg.svdvals(weight - model[0].weight.detach()) / (0.01 * 0.2 * 8**0.5)
    assert 0.6 < lengths[:5].min() and lengths.max() < 1.4  # near one but for the direction that the norm takes away
    moved = (bias - model[1].bias).detach().abs()
    torch.testing.assert_close(moved, moved[:1].expand(6), rtol=1e-3, atol=0)  # by signs, as Adam's first step


def test_muon_leaves_the_kernels_of_depthwise_convolutions_to_adam():
    """Each of them is a matrix of its own and too small to be worth it, as timm sees it."""
    torch.manual_seed(0)
    model = nn.Conv2d(16, 16, 3, groups=16, bias=False)
    optimizer, before = make_optimizer(model, recipe(optimizer="muon", lr=0.01, weight_decay=0.0)), model.weight.clone()
    model(torch.randn(4, 16, 8, 8)).square().sum().backward()
    optimizer.step()
    moved = (before - model.weight).detach().abs()
    torch.testing.assert_close(moved, moved.mean().expand_as(moved), rtol=1e-3, atol=0)  # by signs


def test_muon_decays_matrices_and_spares_vectors():
    model = nn.Linear(4, 4)
    optimizer = make_optimizer(model, recipe(optimizer="muon", lr=0.1, weight_decay=0.5))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before["weight"] * (1 - 0.1 * 0.5))
    torch.testing.assert_close(model.bias.detach(), before["bias"])


def test_muon_is_refused_where_matrices_are_in_shards():
    with pytest.raises(ValueError, match="muon needs whole matrices, which strategy fsdp2 shards; take --strategy ddp"):
        new_state(Line(), recipe(optimizer="muon"), make_strategy("fsdp2", Processes()))


def test_what_a_model_spares_from_decay_is_spared():
    class Model(nn.Linear):
        def no_weight_decay(self):
            return {"weight"}

    optimizer = make_optimizer(Model(2, 2), recipe())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0]
