"""InternImage through timm: what timm's users type works, and means what it means there."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

import internimage
from internimage.weights import DEFAULTS, to_released
from tests.models.variants import TINY, arguments, images, make, with_offsets
from tests.tolerances import assert_close

timm = pytest.importorskip("timm")

NAMES = internimage.register_with_timm()


def create(family: str = "t", **more):
    name, options = arguments(family, **more)
    torch.manual_seed(0)
    return with_offsets(timm.create_model(name, **options)).eval()


def test_every_model_is_listed_once():
    assert NAMES == internimage.list_models()
    assert sorted(timm.list_models("*internimage*")) == sorted(NAMES)
    assert internimage.register_with_timm() == NAMES, "again, without timm's warning of a name that is taken"


def test_without_timm_the_error_says_what_to_install():
    code = "import sys; sys.modules['timm'] = None; import internimage; internimage.register_with_timm()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode != 0 and "pip install 'internimage-torch[train]'" in result.stderr.splitlines()[-1]


def test_models_are_those_of_create_model():
    ours, theirs, x = make(num_classes=5), create(num_classes=5), images()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


def test_options_of_timm_reach_the_model():
    model = create(
        num_classes=7,
        in_chans=1,
        global_pool="max",
        drop_rate=0.1,
        drop_path_rate=0.2,
        scriptable=False,
        exportable=True,
    )
    assert model(images(channels=1)).shape == (2, 7)
    assert (model.config.drop_rate, model.config.drop_path_rate, model.head.global_pool) == (0.1, 0.2, "max")
    model = timm.create_model("internimage_t", device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}
    with pytest.raises(TypeError, match="not_an_option"):
        timm.create_model("internimage_t", device="meta", not_an_option=1)


def test_every_released_classifier_is_a_tag_and_the_best_is_the_default():
    tags = timm.list_models("*internimage*", pretrained=True)
    released = {name: file.replace("intern_image", "internimage") for name, file in DEFAULTS.items()}
    assert {name.replace("_meta", "").replace(".", "_") for name in tags} >= set(released.values())
    assert "internimage_l.22k_192to384" in tags
    for name, file in DEFAULTS.items():
        cfg = timm.models.get_pretrained_cfg(name)
        assert f"{name.removesuffix('_meta')}_{cfg.tag}" == released[name] and cfg.hf_hub_filename == f"{file}.pth"
    model = timm.create_model("internimage_l.22k_192to384", device="meta")
    assert model.num_classes == 21841 and model.pretrained_cfg["input_size"] == (3, 384, 384)


@pytest.mark.parametrize("name", NAMES)
def test_the_data_configuration_is_that_of_the_weights(name):
    model = timm.create_model(name, device="meta")
    config = timm.data.resolve_model_data_config(model)
    ours = internimage.create_model(name, device="meta").default_cfg
    assert {key: config[key] for key in ("input_size", "mean", "std", "crop_pct", "interpolation")} == {
        key: ours[key] for key in ("input_size", "mean", "std", "crop_pct", "interpolation")
    }
    assert model.pretrained_cfg["license"] == "mit"


def test_timms_transform_is_the_released_one():
    from PIL import Image

    from internimage.data.transforms import Preprocessing

    picture = Image.effect_noise((300, 260), 80).convert("RGB")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(create()))
    assert_close(transform(picture), Preprocessing(image_size=224)(picture), "transforms")


@pytest.mark.parametrize(
    "asked, levels", [(None, [0, 1, 2, 3]), ((0, 2), [0, 2]), ((3, 1), [3, 1]), (2, [2, 3]), ((-1,), [3])]
)
@pytest.mark.parametrize("feature_cls", [None, "getter"])
def test_features_match_what_they_announce(feature_cls, asked, levels):
    x = images()
    with torch.no_grad():
        every = make(features_only=True)(x)
        model = create(features_only=True, feature_cls=feature_cls, out_indices=asked)
        maps = model(x)
    if feature_cls == "getter":  # timm's own class gives them from fine to coarse
        levels = sorted(levels)
    assert all(torch.equal(level, every[index]) for level, index in zip(maps, levels, strict=True))
    assert model.feature_info.channels() == [level.shape[1] for level in maps]
    assert model.feature_info.reduction() == [64 // level.shape[2] for level in maps]


@pytest.mark.parametrize("family", ["t", "h_res_post_norm_and_clip"])
def test_features_train_with_checkpointing_and_leave_no_parameter_out(family):
    model = create(family, features_only=True, out_indices=(2, 0)).train()
    model.set_grad_checkpointing()
    sum(level.sum() for level in model(images())).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("family", ["t", "h_res_post_norm_and_clip", "flash_l_biases_and_depthwise"])
def test_timms_symbolic_trace_gives_the_same_logits(family):
    from timm.models import get_notrace_functions, get_notrace_modules
    from torchvision.models.feature_extraction import create_feature_extractor

    model, x = create(family), images()
    with torch.no_grad():
        graph = create_feature_extractor(
            model,
            return_nodes={"head.fc": "logits"},
            tracer_kwargs={
                "leaf_modules": get_notrace_modules(),
                "autowrap_functions": get_notrace_functions(),
                "param_shapes_constant": True,
            },
        )
        # the graph keeps the convolution where inference multiplies patches, so the last bits differ
        assert_close(graph(x)["logits"], model(x), "model")


def test_layer_decay_and_weight_decay_of_timms_optimizer():
    from timm.optim import create_optimizer_v2

    model = create(num_classes=5)
    optimizer = create_optimizer_v2(model, "adamw", lr=1.0, weight_decay=0.05, layer_decay=0.5)
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    group_of = {name_of[id(p)]: group for group in optimizer.param_groups for p in group["params"]}
    assert set(group_of) == set(name_of.values())
    stem, head = group_of["backbone.stem.conv1.weight"], group_of["head.fc.weight"]
    assert head["lr_scale"] == 1.0 and stem["lr_scale"] == 0.5**6
    assert head["weight_decay"] == 0.05 and group_of["head.fc.bias"]["weight_decay"] == 0
    assert group_of["backbone.levels.0.norm.weight"]["weight_decay"] == 0
    model(images()).sum().backward()
    optimizer.step()


def test_timms_moving_average_follows_the_model():
    from timm.utils import ModelEmaV2

    model = create(num_classes=5)
    average = ModelEmaV2(model, decay=0.0)
    with torch.no_grad():
        model.head.fc.weight.fill_(1.0)
    average.update(model)
    assert torch.equal(average.module.head.fc.weight, model.head.fc.weight)
    assert average.module(images()).shape == (2, 5)


# Weights


@pytest.fixture
def weights(tmp_path):
    """A released-style file of a small network, our own names in another, and the network."""
    model = make(num_classes=5)
    torch.save({"model": to_released(model)}, tmp_path / "released.pth")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, tmp_path / "own.safetensors")
    return model, tmp_path / "released.pth", tmp_path / "own.safetensors"


def test_checkpoint_path_takes_our_own_file(weights):
    model, _, own = weights
    loaded = timm.create_model("internimage_t", num_classes=5, checkpoint_path=str(own), **TINY).eval()
    with torch.no_grad():
        assert torch.equal(loaded(images()), model(images()))


@pytest.mark.parametrize("which", [1, 2], ids=["released_names", "our_names"])
def test_a_file_in_the_pretrained_cfg_is_loaded_whatever_its_names(weights, which):
    overlay = {"file": str(weights[which]), "num_classes": 5}
    loaded = timm.create_model("internimage_t", pretrained=True, pretrained_cfg_overlay=overlay, **TINY).eval()
    with torch.no_grad():
        assert torch.equal(loaded(images()), weights[0](images()))
        features = timm.create_model(
            "internimage_t", pretrained=True, pretrained_cfg_overlay=overlay, features_only=True, **TINY
        ).eval()
        assert torch.equal(features(images())[3], weights[0].forward_features(images()))


def test_another_number_of_classes_and_channels_adapts_a_file(weights):
    overlay = {"file": str(weights[1]), "num_classes": 5}
    loaded = timm.create_model(
        "internimage_t", pretrained=True, pretrained_cfg_overlay=overlay, in_chans=1, num_classes=3, **TINY
    ).eval()
    grey = images(channels=1)
    with torch.no_grad():
        assert loaded(grey).shape == (2, 3)
        want = weights[0].forward_features(grey.expand(-1, 3, -1, -1))
        assert_close(loaded.forward_features(grey), want, "model")


@pytest.mark.parametrize(
    "options", [{}, {"num_classes": 3, "in_chans": 1}, {"features_only": True, "out_indices": (1,)}], ids=str
)
def test_released_weights_come_through_our_loader(weights, monkeypatch, options):
    model, released, _ = weights
    asked = []
    monkeypatch.setattr("internimage.weights.load.open_checkpoint", _opens(released, asked))
    in_chans = options.get("in_chans", 3)
    x = images(channels=in_chans)
    options = {"num_classes": 5, **options, **TINY}
    for loaded in (
        timm.create_model("internimage_t", pretrained=True, **options),
        timm.create_model("internimage_t.1k_224", pretrained=True, **options),
        internimage.create_model("internimage_t", pretrained=True, **options),
        internimage.create_model("internimage_t", pretrained="internimage_t_1k_224", **options),
    ):
        with torch.no_grad():
            got = loaded.eval()(x)
            wide = x.expand(-1, 3, -1, -1)
            if "features_only" in options:
                assert torch.equal(got[0], model.forward_intermediates(wide, [1], intermediates_only=True)[0])
            elif in_chans == 3:
                assert torch.equal(got, model(wide))
            else:
                assert got.shape == (2, 3)
                assert_close(loaded.forward_features(x), model.forward_features(wide), "model")
    assert asked == ["internimage_t_1k_224"] * 4


def test_pretrained_weights_are_made_in_the_dtype_asked_for(weights, monkeypatch):
    monkeypatch.setattr("internimage.weights.load.open_checkpoint", _opens(weights[1], []))
    model = internimage.create_model(
        "internimage_t", pretrained=True, num_classes=5, dtype=torch.bfloat16, **TINY
    ).eval()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        assert_close(model(images().bfloat16()), weights[0](images()), "model")


def _opens(path, asked):
    from internimage.weights import open_checkpoint

    def opens(source, **options):
        asked.append(source)
        return open_checkpoint(path, **options)

    return opens


def test_a_model_saved_for_the_hub_comes_back(tmp_path):
    model = create(num_classes=5, global_pool="max")
    timm.models.save_for_hf(model, tmp_path, model_args={**TINY})
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(loaded(images()), model(images()))
