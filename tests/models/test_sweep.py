"""What every model promises, for every family: the interface is the one the field knows from timm."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import nn

import internimage
from internimage.backbones import SIZES
from internimage.data.transforms import Preprocessing
from internimage.models import FeatureExtractor
from internimage.recipes import classification as recipes
from internimage.weights import DEFAULTS, catalog
from tests.models.variants import CLIP, CONVOLUTIONAL, FAMILIES, TINY, images, make, with_offsets
from tests.tolerances import assert_close

every_family = pytest.mark.parametrize("family", FAMILIES)
one_of_each_head = pytest.mark.parametrize("family", ["t", "h_res_post_norm_and_clip"])
every_size = pytest.mark.parametrize("name", SIZES)


def gradients(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(x).square().sum().backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not missing, f"no gradient for {missing}"
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


# Forward and backward


@every_family
def test_logits_are_finite_and_come_from_features_and_head(family):
    model, x = make(family, num_classes=42), images()
    with torch.no_grad():
        logits = model(x)
        features = model.forward_features(x)
        assert features.shape[1] == model.num_features
        assert torch.equal(model.forward_head(features), logits)
        assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
    assert logits.shape == (2, 42) and logits.isfinite().all()


@pytest.mark.parametrize("family", CONVOLUTIONAL)
@pytest.mark.parametrize("size", [(33, 65), (1, 47), (100, 36)], ids=str)
def test_odd_sizes_round_up_at_every_level(family, size):
    model = make(family, num_classes=3)
    with torch.no_grad():
        final, maps = model.forward_intermediates(images(1, size))
        assert model(images(1, size)).isfinite().all()
    for info, level in zip(model.feature_info, maps, strict=True):
        assert level.shape[2:] == tuple(math.ceil(side / info["reduction"]) for side in size)
    assert torch.equal(final, maps[-1])


@pytest.mark.parametrize("family", CLIP)
def test_the_clip_head_fuses_two_levels_at_stride_16_with_1024_channels(family):
    model = make(family)
    with torch.no_grad():
        features = model.forward_features(images(size=(64, 96)))
    assert features.shape == (2, 1024, 4, 6)
    assert (model.num_features, model.head_hidden_size) == (1024, 768)


@every_family
def test_every_parameter_has_a_gradient(family):
    model = make(family, num_classes=5).train()
    assert all(grad.isfinite().all() for grad in gradients(model, images()).values())


@every_family
def test_a_batch_is_its_images_one_by_one(family):
    model, x = make(family, num_classes=5), images(3)
    with torch.no_grad():
        assert_close(torch.cat([model(image) for image in x.split(1)]), model(x), "model")


@one_of_each_head
def test_channels_last_images_give_the_same_logits(family):
    model, x = make(family, num_classes=5), images()
    with torch.no_grad():
        want = model(x)
        model = model.to(memory_format=torch.channels_last)
        assert_close(model(x.contiguous(memory_format=torch.channels_last)), want, "model")


def test_one_channel_images():
    assert make("t", in_chans=1, num_classes=5)(images(channels=1)).shape == (2, 5)


# Precision


@pytest.mark.parametrize("family", ["t", "bn_silu", "h_res_post_norm_and_clip"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_on_the_cpu_stays_near_float32(family, dtype):
    model, x = make(family, num_classes=50), images()
    with torch.no_grad():
        want = model(x)
        got = model.to(dtype)(x.to(dtype))
    assert got.dtype == dtype
    assert_close(got, want, "model")


@one_of_each_head
def test_autocast_runs_and_trains(family):
    model, x = make(family, num_classes=50), images()
    with torch.no_grad():
        want = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        got = model(x)
    assert got.dtype == torch.bfloat16
    assert_close(got, want, "model")
    got.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


# Gradient checkpointing


@every_family
def test_checkpointing_changes_neither_output_nor_gradients(family):
    model, x = make(family, num_classes=5).train(), images()
    output, plain = model(x), gradients(model, x)
    model.set_grad_checkpointing()
    assert_close(model(x), output, "model")
    for name, grad in gradients(model, x).items():
        assert_close(grad, plain[name], "model gradient")
    model.set_grad_checkpointing(False)
    assert not any(level.grad_checkpointing for level in model.backbone.levels)


def test_checkpointing_a_feature_extractor_gives_the_same_gradients():
    model, x = make("t", features_only=True).train(), images()
    results = []
    for enable in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        sum(level.square().mean() for level in model(x)).backward()
        results.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, checkpointed in zip(*results, strict=True):
        assert_close(checkpointed, plain, "model gradient")


# Features


@every_family
def test_features_have_the_channels_and_strides_they_announce(family):
    model = make(family, features_only=True)
    with torch.no_grad():
        maps = model(images(size=96))
    assert [level.shape[1] for level in maps] == model.feature_info.channels() == [16, 32, 64, 128]
    assert [96 // level.shape[2] for level in maps] == model.feature_info.reduction() == [4, 8, 16, 32]


@pytest.mark.parametrize(
    "asked, levels", [((0, 2), [0, 2]), ((3, 1), [3, 1]), ((-1, 0), [3, 0]), (2, [2, 3]), ((1, 1), [1, 1])]
)
def test_features_come_in_the_order_asked_for(asked, levels):
    x = images()
    with torch.no_grad():
        every = make("t", features_only=True)(x)
        model = make("t", features_only=True, out_indices=asked)
        for level, got in zip(levels, model(x), strict=True):
            assert torch.equal(got, every[level])
    assert model.feature_info.channels() == [16 * 2**level for level in levels]
    assert model.feature_info.get_dicts(["reduction"]) == [{"reduction": 4 * 2**level} for level in levels]
    modules = dict(model.named_modules())
    assert all(name in modules for name in model.feature_info.module_name())


def test_a_feature_extractor_has_no_parameter_that_its_maps_do_not_need():
    model = make("t", features_only=True, out_indices=(1, 0)).train()
    sum(level.sum() for level in model(images())).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@every_family
def test_intermediates_are_the_levels_and_the_features(family):
    model, x = make(family), images()
    with torch.no_grad():
        final, maps = model.forward_intermediates(x)
        assert torch.equal(final, model.forward_features(x))
        modules = dict(model.named_modules())
        for info, level in zip(model.feature_info, maps, strict=True):
            assert level.shape[1] == info["num_chs"] and 64 // level.shape[2] == info["reduction"]
            assert info["module"] in modules
        assert torch.equal(model.forward_intermediates(x, norm=True)[1][0], maps[0])


def test_intermediates_come_from_fine_to_coarse_as_in_timm():
    model, x = make("t"), images()
    with torch.no_grad():
        every = model.forward_intermediates(x, intermediates_only=True)
        for asked, levels in (((2, 0), [0, 2]), (2, [2, 3]), ((-1,), [3]), ((1, 1), [1])):
            got = model.forward_intermediates(x, indices=asked, intermediates_only=True)
            assert len(got) == len(levels) and all(torch.equal(a, every[i]) for a, i in zip(got, levels, strict=True))


@one_of_each_head
def test_stopping_early_leaves_out_later_levels(family):
    model, x = make(family), images()
    ran = []
    for index, level in enumerate(model.backbone.levels):
        level.register_forward_hook(lambda *_, index=index: ran.append(index))
    with torch.no_grad():
        final, (level,) = model.forward_intermediates(x, indices=[1], stop_early=True)
        assert ran == [0, 1] and torch.equal(final, level)
        ran.clear()
        final, (again,) = model.forward_intermediates(x, indices=[1])
        assert ran == [0, 1, 2, 3] and torch.equal(again, level)
        assert torch.equal(final, model.forward_features(x))


def test_intermediates_in_either_layout():
    model, x = make("t"), images()
    with torch.no_grad():
        nchw = model.forward_intermediates(x, intermediates_only=True)
        nhwc = model.forward_intermediates(x, intermediates_only=True, output_fmt="NHWC")
    assert all(torch.equal(a, b.permute(0, 3, 1, 2)) for a, b in zip(nchw, nhwc, strict=True))
    with pytest.raises(ValueError, match="output_fmt is 'NLC'"):
        model.forward_intermediates(x, output_fmt="NLC")


@one_of_each_head
@pytest.mark.parametrize("level", range(4))
def test_a_pruned_model_ends_at_its_level_and_can_be_trained(family, level):
    model, x = make(family), images()
    with torch.no_grad():
        taps = model.forward_intermediates(x, intermediates_only=True)
        assert model.prune_intermediate_layers([level]) == [level]
        assert torch.equal(model.forward_features(x), taps[level])
    model.reset_classifier(7, "avg")
    assert model.num_features == model.head_hidden_size == taps[level].shape[1]
    assert model.train()(x).shape == (2, 7)
    gradients(model, x)


@one_of_each_head
def test_pruning_without_the_head_at_the_last_level_changes_nothing(family):
    model, x = make(family), images()
    with torch.no_grad():
        want = model(x)
        model.prune_intermediate_layers([3], prune_head=False)
        assert torch.equal(model(x), want)


# The classifier


@every_family
def test_resetting_the_classifier(family):
    model, x = make(family), images()
    with torch.no_grad():
        pooled = model.forward_head(model.forward_features(x), pre_logits=True)
        model.reset_classifier(0)
        assert model.num_classes == 0 and torch.equal(model(x), pooled)
        model.reset_classifier(9)
        assert model(x).shape == (2, 9)
        assert model.get_classifier().out_features == model.num_classes == 9
        model.reset_classifier(0, "")
        assert model(x).dim() == 4 and model(x).shape[2:] == model.forward_features(x).shape[2:]
    name, options = FAMILIES[family]
    headless = internimage.create_model(name, num_classes=0, global_pool="", **{**TINY, **options}).eval()
    assert headless(x).shape == model(x).shape


@pytest.mark.parametrize("pool", ["avg", "max"])
def test_a_reset_keeps_the_pooling_unless_told_otherwise(pool):
    model, x = make("t", global_pool=pool), images()
    with torch.no_grad():
        pooled = model.forward_head(model.forward_features(x), pre_logits=True)
        model.reset_classifier(5)
        assert torch.equal(model.forward_head(model.forward_features(x), pre_logits=True), pooled)
        model.reset_classifier(5, {"avg": "max", "max": "avg"}[pool])
        assert not torch.allclose(model.forward_head(model.forward_features(x), pre_logits=True), pooled)


def test_without_pooling_the_logits_are_a_map_whose_mean_is_the_answer():
    model, x = make("t", num_classes=5), images(size=96)
    with torch.no_grad():
        want = model(x)
        classifier = model.get_classifier()
        model.reset_classifier(5, "")
        model.head.fc = classifier
        assert_close(model(x).mean((2, 3)), want, "model")


def test_without_pooling_each_position_of_the_clip_head_answers_as_if_attention_saw_only_it():
    model, x = make("h_res_post_norm_and_clip", num_classes=5), images()
    with torch.no_grad():
        fused = model.forward_features(x)
        alone = model.forward_head(fused[:, :, 1:2, 2:3])
        classifier = model.get_classifier()
        model.reset_classifier(5, "")
        model.head.fc = classifier
        assert_close(model(x)[:, :, 1, 2], alone, "model")
        assert model.forward_head(fused, pre_logits=True).shape == (2, 768, 4, 4)


@pytest.mark.parametrize("training", [True, False])
def test_a_new_classifier_goes_where_the_model_is(training):
    model = make("t").to("meta", torch.float64).train(training)
    model.reset_classifier(0)
    model.reset_classifier(2)
    assert all(parameter.is_meta and parameter.dtype == torch.float64 for parameter in model.parameters())
    assert all(module.training == training for module in model.modules())


def test_a_failed_reset_leaves_the_model_as_it_was():
    for family in ("t", "h_res_post_norm_and_clip"):
        model = make(family, num_classes=5)
        for arguments in ((5, "mean"), (-1,), ("five",)):
            with pytest.raises(ValueError):
                model.reset_classifier(*arguments)
        assert model.num_classes == 5 and model(images()).shape == (2, 5)


def test_a_frozen_model_stays_frozen_when_its_classifier_goes():
    model = make("t").requires_grad_(False)
    model.reset_classifier(0)
    model.reset_classifier(0, "")
    assert not any(parameter.requires_grad for parameter in model.parameters())


# The configuration of the data, and of training


@every_size
def test_default_cfg_describes_the_network(name):
    model = internimage.create_model(name, device="meta").eval()
    cfg, state = model.default_cfg, model.state_dict()
    features = model.forward_features(torch.empty(1, *cfg["input_size"], device="meta"))
    assert features.shape == (1, model.num_features, *cfg["pool_size"])
    assert model.forward_head(features).shape == (1, cfg["num_classes"])
    classifiers = [cfg["classifier"]] if isinstance(cfg["classifier"], str) else cfg["classifier"]
    assert all(f"{layer}.weight" in state for layer in (cfg["first_conv"], *classifiers))
    assert state[f"{cfg['first_conv']}.weight"].shape[1] == model.in_chans == cfg["input_size"][0]
    assert len(cfg["mean"]) == len(cfg["std"]) == model.in_chans
    assert cfg["crop_pct"] == 1.0


@every_size
def test_default_cfg_is_what_the_weights_were_trained_on(name):
    cfg = internimage.create_model(name, device="meta").default_cfg
    if name in DEFAULTS:
        released = catalog.get(DEFAULTS[name])
        assert (released.model, released.num_classes) == (name, cfg["num_classes"])
        want = Preprocessing(image_size=released.resolution[0])
    else:
        want = recipes.internimage_femto().preprocessing
    assert cfg["input_size"] == (want.channels, want.image_size, want.image_size)
    assert (cfg["mean"], cfg["std"], cfg["interpolation"]) == (want.mean, want.std, want.interpolation)


@every_family
def test_layer_groups_run_from_stem_to_head(family):
    model = make(family, depths=(2, 1, 2, 1))
    groups = pytest.importorskip("timm.models").group_parameters(model, model.group_matcher(), reverse=True)
    assert set(groups) == {name for name, _ in model.named_parameters()}
    of = {name.removeprefix("backbone.").rpartition(".")[0]: group for name, group in groups.items()}
    blocks = ["levels.0.blocks.0", "levels.0.blocks.1", "levels.1.blocks.0"]
    blocks += ["levels.2.blocks.0", "levels.2.blocks.1", "levels.3.blocks.0"]
    order = [of["stem.conv1"], *(of[f"{block}.mlp.fc1"] for block in blocks), of["head.fc"]]
    assert order == list(range(8)), "stem, six blocks, head"
    for level in range(3):
        for part in (f"levels.{level}.downsample.conv", f"levels.{level}.norm"):
            assert (
                of.get(part, of[f"levels.{level + 1}.blocks.0.mlp.fc1"]) == of[f"levels.{level + 1}.blocks.0.mlp.fc1"]
            )
    for place, block in enumerate(model.config.level2_post_norm_block_ids or ()):
        assert of[f"levels.2.post_norms.{place}"] == of[f"levels.2.blocks.{block}.mlp.fc1"]
    coarse = pytest.importorskip("timm.models").group_parameters(model, model.group_matcher(coarse=True))
    assert len(coarse) == 6, "stem, four levels, head"


@every_family
def test_what_is_spared_from_weight_decay_exists(family):
    model = make(family)
    assert model.no_weight_decay() <= {name for name, _ in model.named_parameters()}


# Copies, files and graphs


@every_family
def test_copies_and_states_carry_everything(family):
    model, x = make(family, num_classes=5), images()
    with torch.no_grad():
        want = model(x)
        assert torch.equal(copy.deepcopy(model)(x), want)
        assert torch.equal(pickle.loads(pickle.dumps(model))(x), want)
        other = make(family, num_classes=5)
        for tensor in (*other.parameters(), *(b for b in other.buffers() if b.is_floating_point())):
            tensor.fill_(0.5)
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(x), want)
        extractor = make(family, features_only=True)
        copied = pickle.loads(pickle.dumps(copy.deepcopy(extractor)))
        assert isinstance(copied, FeatureExtractor) and copied.feature_info.channels() == [16, 32, 64, 128]
        assert all(torch.equal(a, b) for a, b in zip(copied(x), extractor(x), strict=True))


@every_family
def test_the_meta_device_gives_the_shapes(family):
    model = make(family, num_classes=5)
    assert model.to("meta")(images().to("meta")).shape == (2, 5)


@one_of_each_head
@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated and says so, once a shape that is looked at
def test_a_trace_gives_the_same_logits(family):
    model, x = make(family, num_classes=5).requires_grad_(False), images()
    assert_close(torch.jit.trace(model, x, check_trace=False)(x), model(x), "model")


@pytest.mark.slow
@one_of_each_head
@pytest.mark.parametrize("strict", [False, True], ids=["non_strict", "strict"])
def test_an_exported_program_gives_the_same_logits(family, strict):
    model, x = make(family, num_classes=5), images()
    batch = torch.export.Dim("batch", min=1, max=16)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},), strict=strict).module()
    with torch.no_grad():
        assert_close(program(x), model(x), "model")
        assert_close(program(images(3)), model(images(3)), "model")


@pytest.mark.slow
@one_of_each_head
def test_one_compiled_graph_gives_the_same_logits_and_gradients(family):
    model, x = make(family, num_classes=5), images()
    logits, plain = model(x), gradients(model, x)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_close(compiled(x), logits, "model")
    for name, grad in gradients(compiled, x).items():
        if not name.endswith(("head.pool.k.bias", "head.pool.norm_k.bias")):  # the softmax cancels them: pure rounding
            assert_close(grad, plain[name.removeprefix("_orig_mod.")], "model gradient")


@pytest.mark.slow
def test_the_default_compiler_gives_the_same_logits():
    model, x = make("t", num_classes=5, depths=(1, 1, 1, 1)), images()
    with torch.no_grad():
        assert_close(torch.compile(model, fullgraph=True)(x), model(x), "model")


def test_the_real_t_classifies_a_small_image():
    model = with_offsets(internimage.create_model("internimage_t")).eval()
    with torch.no_grad():
        assert model(images(1, 64)).shape == (1, 1000)
