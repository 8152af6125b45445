"""Bad input for every argument of the operator: one clear error that names the argument, what came and what fits."""

from __future__ import annotations

import pytest
import torch

from internimage.ops import dcnv3
from internimage.ops.dcnv3 import dcnv3_from_logits
from internimage.ops.geometry import Geometry

GOOD = {
    "input": torch.zeros(2, 5, 6, 8),
    "offset": torch.zeros(2, 5, 6, 36),
    "mask": torch.zeros(2, 5, 6, 18),
    "groups": 2,
}

WRONG = {
    "input_list": ({"input": [1.0]}, "input is a list, expected a torch.Tensor"),
    "offset_none": ({"offset": None}, "offset is a NoneType, expected a torch.Tensor"),
    "input_3_axes": ({"input": torch.zeros(5, 6, 8)}, r"input has shape \(5, 6, 8\), expected four axes"),
    "offset_5_axes": ({"offset": torch.zeros(2, 5, 6, 9, 2, 2)}, "offset has shape .* expected four axes"),
    "mask_5_axes": ({"mask": torch.zeros(2, 5, 6, 2, 9)}, "mask has shape .* expected four axes"),
    "input_whole_numbers": (
        {"input": torch.zeros(2, 5, 6, 8, dtype=torch.int64)},
        "input is torch.int64, expected float32",
    ),
    "offset_other_dtype": (
        {"offset": torch.zeros(2, 5, 6, 36).half()},
        "offset is torch.float16 .* expected torch.float32",
    ),
    "mask_other_dtype": (
        {"mask": torch.zeros(2, 5, 6, 18).double()},
        "mask is torch.float64 .* expected torch.float32",
    ),
    "mask_other_device": ({"mask": torch.zeros(2, 5, 6, 18, device="meta")}, "mask is .* on meta, expected .* on cpu"),
    "input_no_channels": ({"input": torch.zeros(2, 5, 6, 0)}, "input has 0 channels, expected a positive multiple"),
    "input_empty_map": ({"input": torch.zeros(2, 0, 6, 8)}, "expected a height and width of at least 1"),
    "groups_do_not_divide": ({"groups": 3}, "input has 8 channels, expected a positive multiple of groups=3"),
    "groups_zero": ({"groups": 0}, "groups is 0, expected an int >= 1"),
    "groups_float": ({"groups": 2.0}, "groups is 2.0, expected an int >= 1"),
    "groups_bool": ({"groups": True}, "groups is True, expected an int >= 1"),
    "kernel_size_zero": ({"kernel_size": 0}, "kernel_size is 0, expected an int >= 1 or a pair"),
    "kernel_size_float": ({"kernel_size": 3.0}, "kernel_size is 3.0, expected an int"),
    "kernel_size_three": ({"kernel_size": (3, 3, 3)}, r"kernel_size is \(3, 3, 3\), expected an int >= 1 or a pair"),
    "kernel_size_text": ({"kernel_size": "33"}, "kernel_size is '33'"),
    "kernel_size_bool": ({"kernel_size": True}, "kernel_size is True"),
    "kernel_size_none": ({"kernel_size": None}, "kernel_size is None"),
    "stride_zero": ({"stride": 0}, "stride is 0, expected an int >= 1"),
    "stride_pair": ({"stride": (1, 0)}, r"stride is \(1, 0\)"),
    "padding_negative": ({"padding": -1}, "padding is -1, expected an int >= 0"),
    "dilation_zero": ({"dilation": (0, 1)}, r"dilation is \(0, 1\), expected an int >= 1"),
    "offset_scale_nan": ({"offset_scale": float("nan")}, "offset_scale is nan, expected a finite number"),
    "offset_scale_infinite": ({"offset_scale": float("inf")}, "offset_scale is inf, expected a finite number"),
    "offset_scale_text": ({"offset_scale": "1"}, "offset_scale is '1', expected a finite number"),
    "remove_center_text": ({"remove_center": "no"}, "remove_center is 'no', expected True or False"),
    "remove_center_even": (
        {"remove_center": True, "kernel_size": (3, 2)},
        r"odd on both axes, got kernel_size=\(3, 2\)",
    ),
    "remove_center_only_tap": ({"remove_center": True, "kernel_size": 1}, "leaves no tap"),
    "kernel_does_not_fit": ({"kernel_size": 7, "padding": 0}, "5x6 is too small for kernel_size=.* would be -1x0"),
    "offset_one_number_a_tap": (
        {"offset": torch.zeros(2, 5, 6, 18)},
        r"offset has shape \(2, 5, 6, 18\), expected \(2, 5, 6, 36\) = \(N, H_out, W_out, groups\*P\*2\)"
        r"[^$]*groups=2, kernel_size=\(3, 3\), P=9.*Half the width",
    ),
    "offset_other_size": (
        {"offset": torch.zeros(2, 4, 6, 36)},
        r"offset has shape \(2, 4, 6, 36\), expected \(2, 5, 6, 36\)",
    ),
    "mask_other_batch": (
        {"mask": torch.zeros(1, 5, 6, 18)},
        r"mask has shape \(1, 5, 6, 18\), expected \(2, 5, 6, 18\)",
    ),
    "mask_for_remove_center": ({"remove_center": True}, r"offset has shape .* expected \(2, 5, 6, 32\)"),
    "channels_first": ({"input": torch.zeros(2, 8, 5, 6)}, r"offset has shape .* expected \(2, 8, 5, 36\)"),
}


@pytest.mark.parametrize("wrong, message", WRONG.values(), ids=WRONG)
def test_wrong_argument(wrong, message):
    with pytest.raises(ValueError, match=message):
        dcnv3(**{**GOOD, **wrong})


def test_the_good_call_they_start_from():
    assert dcnv3(**GOOD).shape == (2, 5, 6, 8)


def test_arguments_after_kernel_size_are_keywords():
    with pytest.raises(TypeError):
        dcnv3(GOOD["input"], GOOD["offset"], GOOD["mask"], 3, 1)


def test_an_unknown_keyword_is_refused():
    with pytest.raises(TypeError, match="pad"):
        dcnv3(**GOOD, pad=1)


def test_the_function_of_logits_checks_the_same():
    with pytest.raises(ValueError, match="offset has shape"):
        dcnv3_from_logits(GOOD["input"], GOOD["offset"][..., 1:], GOOD["mask"], Geometry(groups=2))


def test_meta_tensors_give_the_shape_and_nothing_else():
    tensors = {name: value.to("meta") for name, value in GOOD.items() if isinstance(value, torch.Tensor)}
    output = dcnv3(**tensors, groups=2)
    assert output.is_meta and output.shape == (2, 5, 6, 8)


@pytest.mark.parametrize("pair", [[3, 5], (3, 5), torch.Size([3, 5])], ids=str)
def test_pairs_are_height_and_width(pair):
    offset, mask = torch.zeros(1, 5, 6, 15 * 2), torch.zeros(1, 5, 6, 15)
    output = dcnv3(torch.zeros(1, 5, 6, 4), offset, mask, pair, padding=(1, 2))
    assert output.shape == (1, 5, 6, 4)


def test_taps_run_column_by_column():
    geometry = Geometry.of((2, 3), 1, 0, (5, 7), 1, 1.0, False)
    assert geometry.tap_positions() == [(0, 0), (0, 5), (7, 0), (7, 5), (14, 0), (14, 5)]
    assert Geometry.of(3, 1, 1, 1, 1, 1.0, True).tap_positions() == [
        (0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2),
    ]  # fmt: skip


@pytest.mark.parametrize("kernel_size, stride, padding, dilation", [(3, 1, 1, 1), ((2, 5), (3, 1), (0, 4), (2, 1))])
def test_output_sizes_are_those_of_a_convolution(kernel_size, stride, padding, dilation):
    geometry = Geometry.of(kernel_size, stride, padding, dilation, 1, 1.0, False)
    for h, w in ((7, 9), (12, 5)):
        like = torch.nn.Conv2d(1, 1, kernel_size, stride, padding, dilation).to("meta")
        assert geometry.output_size(h, w) == like(torch.zeros(1, 1, h, w, device="meta")).shape[2:]


def test_geometry_survives_the_registered_operators_schema():
    geometry = Geometry.of((3, 5), (2, 1), (0, 4), (2, 1), 4, 1.5, True)
    assert Geometry.from_args(*geometry.as_args()) == geometry
