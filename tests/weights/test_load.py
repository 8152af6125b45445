"""What ``load_weights`` takes, what it says, and what it refuses."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import internimage
from internimage.backbones import InternImage
from internimage.layers import DCNv3, MSDeformAttn
from internimage.models import FeatureExtractor, InternImageClassifier
from internimage.weights import IMAGENET_1K_IN_22K, WeightsError, load_weights, read_card, to_released
from internimage.weights.released import to_hugging_face
from tests.weights.small import FAMILIES, H, L, T, assert_same_state, classifier, randomize

CONTAINERS = {
    "flat": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3, "max_accuracy": 83.5},
    "state_dict": lambda state: {"state_dict": state, "meta": {"CLASSES": ("a", "b")}},
    "module": lambda state: {"module": state, "global_steps": 7},
    "data parallel": lambda state: {"model": {f"module.{key}": tensor for key, tensor in state.items()}},
    "backbone prefix": lambda state: {"state_dict": {f"backbone.{key}": tensor for key, tensor in state.items()}},
    "hugging face": lambda state: to_hugging_face(state),
}


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
def test_every_container_and_key_format(config, container):
    source, model = classifier(config), classifier(config, seed=1)
    report = internimage.load_weights(model, container(to_released(source)))
    assert report.complete and report.loaded == report.total == len(model.state_dict())
    assert_same_state(model.state_dict(), source.state_dict())


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
def test_our_own_keys(config):
    source, model = classifier(config), classifier(config, seed=1)
    internimage.load_weights(model, source.state_dict())
    assert_same_state(model.state_dict(), source.state_dict())
    backbone = randomize(InternImage(config), seed=2)
    internimage.load_weights(backbone, source.state_dict())
    assert_same_state(backbone.state_dict(), source.backbone.state_dict())
    internimage.load_weights(model.backbone, backbone.state_dict())


@pytest.mark.parametrize("make", [InternImage, FeatureExtractor])
@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
def test_classification_files_load_straight_into_backbones(config, container, make):
    source, model = classifier(config), randomize(make(config), seed=1)
    report = internimage.load_weights(model, container(to_released(source)))
    backbone = model if make is InternImage else model.backbone
    assert_same_state(backbone.state_dict(), source.backbone.state_dict())
    assert report.complete
    assert "head" in " ".join(report.skipped)


def test_a_network_cut_short_skips_the_levels_behind():
    source = classifier(T)
    model = internimage.create_model("internimage_t", features_only=True, out_indices=(0, 1), **_overrides(T))
    report = internimage.load_weights(model, to_released(source))
    assert report.complete and any("cut short" in reason for reason in report.skipped)
    assert torch.equal(model.backbone.levels[1].norm.weight, source.backbone.levels[1].norm.weight)


def _overrides(config):
    return {"channels": config.channels, "depths": config.depths, "groups": config.groups}


@pytest.mark.parametrize(
    "options", [{}, {"center_feature_scale": True, "dw_kernel_size": 5}, {"norm_layer": "BN"}], ids=str
)
def test_layers_take_released_names(options):
    source, layer = randomize(DCNv3(16, groups=2, **options)), randomize(DCNv3(16, groups=2, **options), seed=1)
    state = to_released(source)
    assert "dw_conv.0.weight" in state and ("center_feature_scale_proj_weight" in state) == (len(options) == 2)
    internimage.load_weights(layer, state)
    assert_same_state(layer.state_dict(), source.state_dict())
    internimage.load_weights(layer, randomize(source, 2).state_dict())
    assert_same_state(layer.state_dict(), source.state_dict())


def test_attention_takes_released_names():
    source, layer = (randomize(MSDeformAttn(16, 2, 2, 3), seed) for seed in (0, 1))
    assert list(to_released(source)) == list(source.state_dict())
    state = {f"module.{key}": tensor for key, tensor in to_released(source).items()}
    assert internimage.load_weights(layer, {"state_dict": state}).complete
    assert_same_state(layer.state_dict(), source.state_dict())


@pytest.mark.parametrize("source", [None, 3, ""], ids=repr)
def test_what_is_no_source_is_named(source):
    with pytest.raises(WeightsError, match=f"the source of the weights is {source!r}, expected a released name"):
        internimage.load_weights(DCNv3(16, groups=2), source)


def test_blocks_and_levels_take_released_names():
    for module, other in zip(
        classifier(H).backbone.levels[2].children(), classifier(H, seed=1).backbone.levels[2].children(), strict=True
    ):
        if module is not None and hasattr(module, "dcn"):
            internimage.load_weights(other, to_released(module))
            assert_same_state(other.state_dict(), module.state_dict())
    level, other = classifier(H).backbone.levels[2], classifier(H, seed=1).backbone.levels[2]
    internimage.load_weights(other, to_released(level))
    assert_same_state(other.state_dict(), level.state_dict())


def test_averaged_weights_are_taken_when_asked_for():
    raw, averaged, model = classifier(seed=0), classifier(seed=1), classifier(seed=2)
    file = {"model": to_released(raw), "model_ema": {f"module.{k}": v for k, v in to_released(averaged).items()}}
    report = internimage.load_weights(model, file)
    assert_same_state(model.state_dict(), raw.state_dict())
    assert "ema=True" in str(report)
    internimage.load_weights(model, file, ema=True)
    assert_same_state(model.state_dict(), averaged.state_dict())
    with pytest.raises(WeightsError, match="no averaged weights.*'model', 'epoch'"):
        internimage.load_weights(model, {"model": to_released(raw), "epoch": 1}, ema=True)


def test_raw_weights_beside_averaged_ones_are_left_out():
    source, model = classifier(), classifier(seed=1)
    state = to_released(source)
    state |= {f"ema_{key.replace('.', '_')}": torch.zeros_like(tensor) for key, tensor in state.items()}
    report = internimage.load_weights(model, {"state_dict": state})
    assert report.complete
    assert_same_state(model.state_dict(), source.state_dict())


def test_detectors_give_their_backbone():
    source, model = classifier(L), randomize(InternImage(L), seed=1)
    state = {f"backbone.{key}": tensor for key, tensor in to_released(source.backbone).items()}
    state |= {"neck.lateral_convs.0.conv.weight": torch.ones(1), "roi_head.bbox_head.fc_cls.weight": torch.ones(1)}
    report = internimage.load_weights(model, {"meta": {}, "state_dict": state})
    assert report.complete and sum(map(len, report.skipped.values())) == 2
    assert_same_state(model.state_dict(), source.backbone.state_dict())
    with pytest.raises(WeightsError, match="missing.*head"):
        internimage.load_weights(classifier(L), {"state_dict": state})


def test_a_22k_head_becomes_a_1k_head_row_by_row():
    source = InternImageClassifier(T, 21841).eval()
    model = classifier(T, num_classes=1000)
    report = internimage.load_weights(model, to_released(source))
    assert "21841" in " ".join(report.converted)
    image = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(model(image), source(image)[:, list(IMAGENET_1K_IN_22K)], atol=1e-6)


def test_the_22k_map_is_that_of_the_sorted_wordnet_ids():
    timm_info = pytest.importorskip("timm.data.imagenet_info")
    large = {name: index for index, name in enumerate(timm_info.ImageNetInfo("imagenet22k").label_names())}
    small = timm_info.ImageNetInfo("imagenet1k").label_names()
    expected = [large.get(name, large["n04398044"]) for name in small]
    assert list(IMAGENET_1K_IN_22K) == expected
    assert len(set(IMAGENET_1K_IN_22K)) == 999


def test_another_number_of_classes_keeps_the_backbone_and_says_so(caplog):
    source, model = classifier(num_classes=7), classifier(num_classes=3, seed=1)
    before = model.head.fc.weight.clone()
    with caplog.at_level(logging.WARNING, "internimage"):
        report = internimage.load_weights(model, to_released(source))
    assert "7 classes and the model 3" in str(report) and "num_classes=7" in str(report)
    assert "7 classes" in caplog.text
    assert torch.equal(model.head.fc.weight, before)
    assert_same_state(model.backbone.state_dict(), source.backbone.state_dict())
    assert torch.equal(model.head.conv.weight, source.head.conv.weight)


def test_a_model_without_classes_skips_the_classifier():
    source, model = classifier(), InternImageClassifier(T, 0)
    report = internimage.load_weights(model, to_released(source))
    assert report.complete and "num_classes=0" in " ".join(report.skipped)


@pytest.mark.parametrize("kernel", [3, 5, (3, 5)], ids=str)
def test_remove_center_drops_the_middle_tap(kernel):
    pad = kernel // 2 if isinstance(kernel, int) else tuple(size // 2 for size in kernel)
    full = randomize(DCNv3(8, kernel, padding=pad, groups=2)).double()
    cut = DCNv3(8, kernel, padding=pad, groups=2, remove_center=True).double()
    report = internimage.load_weights(cut, to_released(full))
    assert "4 offset and mask tensors" in " ".join(report.converted)
    # with no weight on the middle tap, the softmax over the others gives the same output
    taps = full.geometry.taps
    with torch.no_grad():
        rows = full.mask.weight.view(2, taps, -1)
        rows[:, taps // 2] = 0
        full.mask.bias.view(2, taps)[:, taps // 2] = -1e4
    x = torch.rand(1, 6, 7, 8, dtype=torch.float64)
    assert torch.allclose(cut(x), full(x), atol=1e-12)


def test_remove_center_converts_whole_checkpoints():
    config = {**_overrides(T), "remove_center": True}
    model = internimage.create_model("internimage_t", num_classes=5, **config)
    report = internimage.load_weights(model, to_released(classifier(T)))
    assert report.complete and "20 offset and mask tensors" in " ".join(report.converted)


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_another_number_of_image_channels_keeps_grey_pictures_grey(channels):
    source = classifier(T)
    model = internimage.create_model("internimage_t", num_classes=5, in_chans=channels, **_overrides(T)).eval()
    report = internimage.load_weights(model, to_released(source))
    assert f"from 3 input channels to {channels}" in " ".join(report.converted)
    if channels in (1, 6):
        grey = torch.rand(1, 1, 32, 32)
        with torch.inference_mode():
            assert torch.allclose(
                model(grey.expand(-1, channels, -1, -1)), source(grey.expand(-1, 3, -1, -1)), atol=1e-5
            )


def test_missing_layer_scales_of_one_are_the_same_network():
    from dataclasses import replace

    source, model = classifier(T), InternImage(replace(T, layer_scale=1.0))
    report = internimage.load_weights(model, to_released(source))
    assert len(report.missing) == 2 * sum(T.depths) and not report.complete
    assert "the same network" in str(report)
    image = torch.rand(1, 3, 32, 32)
    for ours, theirs in zip(model.eval()(image), source.backbone(image), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(WeightsError, match="layer_scale=None"):
        internimage.load_weights(InternImage(replace(T, layer_scale=0.5)), to_released(source))


def test_a_metadata_branch_is_left_out_with_a_word():
    source, model = classifier(H), classifier(H, seed=1)
    state = to_released(source) | {"meta_head_1.0.weight": torch.ones(2), "meta_norm.weight": torch.ones(2)}
    report = internimage.load_weights(model, {"model": state})
    assert report.complete and "date and place" in " ".join(report.skipped)


def test_pretraining_files_give_their_image_network():
    source, model = classifier(H), classifier(H, seed=1)
    joint = {"mask_token": torch.zeros(1), "mm_dcnv3.x": torch.zeros(1), "text.x": torch.zeros(1)}
    for key, tensor in to_released(source).items():
        if key.startswith("fc_norm.0"):
            joint[key.replace("fc_norm.0", "clip.classifier_ln")] = tensor
        elif key.startswith("head."):
            joint[key.replace("head", "clip.classifier")] = tensor
        else:
            joint[f"dcnv3.{key}"] = tensor
    internimage.load_weights(model, {"module": joint})
    assert_same_state(model.state_dict(), source.state_dict())
    student = {f"student.{key}": tensor for key, tensor in to_released(source).items()}
    student |= {"student.student_proj.weight": torch.zeros(1), "teacher.x": torch.zeros(1)}
    model = classifier(H, seed=1)
    internimage.load_weights(model, {"model": student})
    assert_same_state(model.state_dict(), source.state_dict())


def test_a_mismatch_names_everything_and_changes_nothing():
    state = to_released(classifier(T))
    state["surplus.weight"] = torch.ones(1)
    state["levels.0.norm.0.weight"] = torch.ones(3)
    del state["patch_embed.conv1.bias"]
    model = classifier(T, seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        internimage.load_weights(model, state)
    message = str(caught.value)
    for part in ("surplus.weight", "(3,) in the file, (16,) in the module", "stem.conv1.bias", "strict=False"):
        assert part in message
    assert_same_state(model.state_dict(), before)
    report = internimage.load_weights(model, state, strict=False)
    assert report.missing == ["backbone.stem.conv1.bias"] and report.unexpected == ["surplus.weight"]
    assert report.wrong_shape == [("backbone.levels.0.norm.weight", (3,), (16,))]
    assert report.loaded == report.total - 2
    assert torch.equal(model.backbone.stem.conv1.bias, before["backbone.stem.conv1.bias"])


def test_another_size_is_recognised():
    state = to_released(internimage.create_model("internimage_femto", num_classes=10))
    with pytest.raises(WeightsError, match="of another size: internimage_femto"):
        internimage.load_weights(classifier(T), state)


def test_files_of_other_families_are_named():
    with pytest.raises(WeightsError, match="DCNv4"):
        internimage.load_weights(classifier(T), {"levels.0.blocks.0.dcn.offset_mask.weight": torch.ones(1)})
    with pytest.raises(WeightsError, match="composite of two backbones"):
        internimage.load_weights(InternImage(T), {"backbone.cb_modules.0.patch_embed.conv1.bias": torch.ones(8)})


def test_values_come_in_the_dtype_of_the_module():
    source, model = classifier(), classifier(seed=1).double()
    internimage.load_weights(
        model,
        {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in to_released(source).items()},
    )
    assert model.head.fc.weight.dtype == torch.float64
    assert torch.allclose(model.head.fc.weight, source.head.fc.weight.double(), atol=1e-3)


def test_a_counter_may_be_missing_and_parameters_keep_their_identity():
    source, model = classifier(), classifier(seed=1)
    weight = model.head.fc.weight
    internimage.load_weights(model, {k: v for k, v in to_released(source).items() if "tracked" not in k})
    assert model.head.fc.weight is weight and weight.requires_grad


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "holds no tensors; it has nothing"),
        ({"model": {}, "epoch": 1}, "holds no tensors; it has 'model', 'epoch'"),
        ({"a": torch.ones(1)}, "no name fits: the file begins with a"),
        ("internimage_t_1k_22.pth", "did you mean 'internimage_t_1k_224'"),
        ("no/such/file.pth", "there is no file"),
    ],
    ids=["empty", "nothing", "foreign", "typo", "path"],
)
def test_useless_sources(source, message):
    with pytest.raises(WeightsError, match=message):
        internimage.load_weights(classifier(), source)


def test_modules_that_are_none_of_ours():
    with pytest.raises(WeightsError, match="no name for weight"):
        to_released(torch.nn.Linear(2, 2))


def test_a_file_that_may_not_be_read_is_not_said_to_be_missing(tmp_path, monkeypatch):
    """As safetensors would; who runs the tests may read everything, so that the refusal is made up."""
    path = tmp_path / "model.safetensors"
    save_file({"x": torch.zeros(1)}, path)

    def refuse(self, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    for read in (read_card, lambda path: load_weights(torch.nn.Linear(1, 1), path)):
        with pytest.raises(PermissionError, match="Permission denied"):
            read(path)
