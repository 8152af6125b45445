"""Making a model: names, options, devices and dtypes, and one clear error for what means nothing."""

from __future__ import annotations

import dataclasses
import json
import time

import pytest
import torch

import internimage
from internimage.backbones import SIZES, InternImageConfig
from internimage.ops import BackendError
from tests.models.variants import TINY, images, make

PARAMETERS = {  # of the released networks with 1000 classes
    "internimage_t": 29_918_424,
    "internimage_s": 50_079_880,
    "internimage_b": 97_461_832,
    "internimage_l": 223_334_810,
    "internimage_xl": 334_819_780,
    "internimage_h": 1_089_636_760,
    "internimage_g": 3_076_373_352,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_size_has_the_released_number_of_parameters(name):
    model = internimage.create_model(name, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", ["internimage_h", "internimage_g"])
def test_billions_of_parameters_are_laid_out_within_a_second_of_work(name):
    fastest = float("inf")
    for _ in range(3):
        start = time.process_time()
        model = internimage.create_model(name, device="meta", dtype=torch.bfloat16)
        fastest = min(fastest, time.process_time() - start)
    assert fastest < 1
    assert {(tensor.device.type, tensor.dtype) for tensor in model.state_dict().values()} == {("meta", torch.bfloat16)}


def test_parameters_are_made_in_the_dtype_asked_for(monkeypatch):
    made = set()
    register = torch.nn.Module.register_parameter

    def watch(self, name, parameter):
        made.add(None if parameter is None else parameter.dtype)
        return register(self, name, parameter)

    monkeypatch.setattr(torch.nn.Module, "register_parameter", watch)
    internimage.create_model("internimage_t", dtype=torch.bfloat16, **TINY)
    assert made - {None} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32


def test_a_failed_creation_leaves_the_default_dtype_alone():
    with pytest.raises(ValueError, match="num_classes"):
        internimage.create_model("internimage_t", dtype=torch.float64, num_classes=-1, **TINY)
    assert torch.get_default_dtype() == torch.float32


def test_a_device_context_decides_where_no_device_is_given():
    with torch.device("meta"):
        model = internimage.create_model("internimage_t", **TINY)
    assert next(model.parameters()).is_meta


def test_overrides_reach_the_network():
    model = make("t", in_chans=1, num_classes=7, drop_path_rate=0.3)
    assert model(images(channels=1)).shape == (2, 7)
    assert (model.in_chans, model.num_classes, model.config.drop_path_rate) == (1, 7, 0.3)


def test_the_embedded_size_has_the_classes_and_channels_of_its_pictures():
    model = internimage.create_model("internimage_femto").eval()
    assert model(images(size=28, channels=1)).shape == (2, 10)


def test_drop_path_grows_linearly_or_is_the_same_everywhere():
    linear = InternImageConfig(depths=(1, 2, 1, 1), drop_path_rate=0.4)
    assert [rate for level in linear.drop_path_rates() for rate in level] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert [len(level) for level in linear.drop_path_rates()] == [1, 2, 1, 1]
    uniform = dataclasses.replace(linear, drop_path_type="uniform")
    assert {rate for level in uniform.drop_path_rates() for rate in level} == {0.4}


def test_drop_path_is_active_in_training_only():
    model = make("t", drop_path_rate=0.9, drop_path_type="uniform")
    with torch.no_grad():
        assert torch.equal(model(images()), model(images()))
        model.backbone.train()
        assert not torch.equal(model(images()), model(images()))


@pytest.mark.parametrize("name", SIZES)
def test_a_config_survives_json(name):
    config = SIZES[name]
    assert InternImageConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


BAD_CONFIGS = {
    "three_levels": ({"depths": (4, 4, 18)}, "depths is (4, 4, 18), expected four integers"),
    "no_blocks": ({"depths": (4, 0, 18, 4)}, "depths"),
    "depths_of_text": ({"depths": "4444"}, "depths is '4444'"),
    "groups_as_one_number": ({"groups": 4}, "groups is 4, expected four integers"),
    "groups_that_do_not_divide": (
        {"groups": (4, 8, 16, 30)},
        "level 3 has 512 channels, which groups=30 does not divide",
    ),
    "odd_channels": ({"channels": 63}, "channels is 63, expected an even integer"),
    "channels_as_text": ({"channels": "64"}, "channels is '64'"),
    "channels_true": ({"channels": True}, "channels is True"),
    "no_image": ({"in_chans": 0}, "in_chans is 0"),
    "mlp_ratio": ({"mlp_ratio": 0}, "mlp_ratio is 0, expected a number above 0"),
    "drop_rate": ({"drop_rate": -0.1}, "drop_rate is -0.1, expected a number from 0 to 1"),
    "drop_path_rate": ({"drop_path_rate": 1.5}, "drop_path_rate is 1.5"),
    "drop_path_rate_nan": ({"drop_path_rate": float("nan")}, "drop_path_rate is nan"),
    "drop_path_type": ({"drop_path_type": "cosine"}, "drop_path_type is 'cosine', expected one of 'linear', 'uniform'"),
    "act_layer": ({"act_layer": "gelu"}, "act_layer is 'gelu', expected one of 'GELU', 'ReLU', 'SiLU'"),
    "norm_layer": ({"norm_layer": torch.nn.LayerNorm}, "norm_layer is <class"),
    "layer_scale": ({"layer_scale": "1e-5"}, "layer_scale is '1e-5', expected a number, or None"),
    "offset_scale": ({"offset_scale": float("inf")}, "offset_scale is inf, expected a finite number"),
    "post_norm": ({"post_norm": "no"}, "post_norm is 'no', expected True or False"),
    "even_dw_kernel": ({"dw_kernel_size": 4}, "dw_kernel_size is 4, expected an odd integer"),
    "negative_block": ({"level2_post_norm_block_ids": (-1,)}, "level2_post_norm_block_ids is (-1,)"),
    "block_that_is_not_there": (
        {"level2_post_norm": True, "level2_post_norm_block_ids": (5, 23)},
        "gives the third level blocks 0 to 17",
    ),
    "cls_scale": ({"cls_scale": -1}, "cls_scale is -1"),
}


@pytest.mark.parametrize("fields, message", BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_a_config_that_means_nothing_says_why(fields, message):
    with pytest.raises(ValueError) as caught:
        InternImageConfig(**fields)
    assert message in str(caught.value)


BAD_CALLS = {
    "near_name": (("internimage_tt", {}), ValueError, "did you mean 'internimage_t'?"),
    "name_in_capitals": (("InternImage_XL", {}), ValueError, "did you mean 'internimage_xl'?"),
    "no_name": (("resnet50", {}), ValueError, "the models are internimage_femto, internimage_t"),
    "number_for_name": ((42, {}), ValueError, "there is no model 42"),
    "list_for_name": ((["internimage_t"], {}), ValueError, "there is no model ['internimage_t']"),
    "near_field": (("internimage_t", {"drop_rates": 0.1}), TypeError, "did you mean 'drop_rate'?"),
    "begun_field": (("internimage_t", {"drop_pat": 0.1}), TypeError, "did you mean 'drop_path_rate'?"),
    "near_option": (("internimage_t", {"feature_only": True}), TypeError, "did you mean 'features_only'?"),
    "negative_classes": (("internimage_t", {"num_classes": -1}), ValueError, "num_classes is -1"),
    "classes_as_text": (("internimage_t", {"num_classes": "10"}), ValueError, "num_classes is '10'"),
    "pool": (("internimage_t", {"global_pool": "mean"}), ValueError, "global_pool is 'mean', expected one of 'avg'"),
    "pool_of_clip": (("internimage_h", {"global_pool": "avg"}), ValueError, "pools by 'attention'"),
    "level": (
        ("internimage_t", {"features_only": True, "out_indices": (0, 4)}),
        ValueError,
        "(0, 4), expected some of 0",
    ),
    "too_many_levels": (("internimage_t", {"features_only": True, "out_indices": 5}), ValueError, "asked for are 5"),
    "no_level": (("internimage_t", {"features_only": True, "out_indices": ()}), ValueError, "asked for are ()"),
    "levels_without_features": (("internimage_t", {"out_indices": (0, 1)}), ValueError, "features_only=True"),
    "device": (("internimage_t", {"device": "gpu"}), ValueError, "device is 'gpu'"),
    "device_of_another_machine": (("internimage_t", {"device": "cuda:99"}), ValueError, "'cuda:99' is not on this"),
    "dtype": (("internimage_t", {"dtype": "bfloat16"}), ValueError, "dtype is 'bfloat16', expected a floating point"),
    "integer_dtype": (("internimage_t", {"dtype": torch.int8}), ValueError, "dtype is torch.int8"),
    "backend": (("internimage_t", {"backend": "cuda"}), BackendError, "there is no backend 'cuda'"),
    "weights": (("internimage_t", {"pretrained": "internimage_t_1k_242"}), ValueError, "internimage_t_1k_224"),
    "weights_of_another": (("internimage_t", {"pretrained": "internimage_s_1k_224"}), ValueError, "of internimage_s"),
    "weights_without_memory": (("internimage_t", {"pretrained": True, "device": "meta"}), ValueError, "device='meta'"),
}


@pytest.mark.parametrize("call, error, message", BAD_CALLS.values(), ids=BAD_CALLS)
def test_a_call_that_means_nothing_says_why(call, error, message):
    name, options = call
    tiny = {**TINY, "level2_post_norm_block_ids": (0,)} if name == "internimage_h" else TINY
    with pytest.raises(error) as caught:
        internimage.create_model(name, **{**tiny, **options})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.zeros(1, 1, 64, 64), r"image has shape .*, expected \(N, 3, height, width\)"),
        (torch.zeros(3, 64, 64), r"image has shape .*, expected \(N, 3, height, width\)"),
        (torch.zeros(1, 3, 64, 0), r"image has shape .*, expected a height and width of at least 1"),
        (torch.zeros(1, 3, 64, 64).numpy(), "image is a ndarray, expected a torch.Tensor"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "image is torch.uint8, expected torch.float32"),
    ],
    ids=["channels", "no_batch", "no_pixels", "array", "uint8"],
)
def test_an_image_that_does_not_fit_is_named(image, words):
    with pytest.raises(ValueError, match=words):
        make("t")(image)


def test_the_clip_head_says_which_sizes_it_takes():
    with pytest.raises(ValueError, match="multiples of 32"):
        make("h_res_post_norm_and_clip")(images(size=(64, 80)))
