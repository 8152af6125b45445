"""Bad input for every argument of DCNv4: one clear error that names the argument, what came and what fits."""

from __future__ import annotations

import pytest
import torch

from internimage.ops import BackendError, dcnv4, pack_offset_mask
from internimage.ops.dcnv4 import packed_channels
from internimage.ops.geometry import Geometry

GOOD = {"input": torch.zeros(2, 5, 6, 8), "offset_mask": torch.zeros(2, 5, 6, 56), "groups": 2}
IN_A_ROW = {"input": torch.zeros(2, 30, 8), "offset_mask": torch.zeros(2, 30, 56), "groups": 2, "size": (5, 6)}

WRONG = {
    "input_list": ({"input": [1.0]}, "input is a list, expected a torch.Tensor"),
    "offset_mask_none": ({"offset_mask": None}, "offset_mask is a NoneType, expected a torch.Tensor"),
    "input_3_axes": ({"input": torch.zeros(5, 6, 8)}, r"input has shape \(5, 6, 8\), expected four axes, or size="),
    "offset_mask_3_axes": ({"offset_mask": torch.zeros(2, 30, 56)}, "offset_mask has shape .* expected four axes"),
    "input_whole_numbers": (
        {"input": torch.zeros(2, 5, 6, 8, dtype=torch.int64)},
        "input is torch.int64, expected float32",
    ),
    "offset_mask_other_dtype": (
        {"offset_mask": torch.zeros(2, 5, 6, 56).half()},
        "offset_mask is torch.float16 .* expected torch.float32",
    ),
    "offset_mask_other_device": (
        {"offset_mask": torch.zeros(2, 5, 6, 56, device="meta")},
        "offset_mask is .* on meta, expected .* on cpu",
    ),
    "groups_do_not_divide": ({"groups": 3}, "input has 8 channels, expected a positive multiple of groups=3"),
    "kernel_size_zero": ({"kernel_size": 0}, "kernel_size is 0, expected an int >= 1 or a pair"),
    "remove_center_even": ({"remove_center": True, "kernel_size": 2}, "odd on both axes"),
    "kernel_does_not_fit": ({"kernel_size": 7, "padding": 0}, "5x6 is too small for kernel_size=.* would be -1x0"),
    "not_rounded_up": (
        {"offset_mask": torch.zeros(2, 5, 6, 54)},
        r"offset_mask has shape \(2, 5, 6, 54\), expected \(2, 5, 6, 56\) = .*groups\*P\*3 rounded up to a multiple"
        r" of 8[^$]*P=9, hence 54 numbers used",
    ),
    "other_size": (
        {"offset_mask": torch.zeros(2, 4, 6, 56)},
        r"offset_mask has shape \(2, 4, 6, 56\), expected \(2, 5, 6, 56\)",
    ),
    "other_batch": (
        {"offset_mask": torch.zeros(1, 5, 6, 56)},
        r"offset_mask has shape \(1, 5, 6, 56\), expected \(2, 5, 6, 56\)",
    ),
}
WRONG_IN_A_ROW = {
    "maps_with_a_size": ({"input": torch.zeros(2, 5, 6, 8)}, r"input has shape \(2, 5, 6, 8\), expected three axes"),
    "size_does_not_multiply": (
        {"size": (5, 5)},
        r"size is \(5, 5\), expected \(height, width\) of the 30 pixels of input",
    ),
    "size_of_three": ({"size": (5, 3, 2)}, r"size is \(5, 3, 2\), expected \(height, width\)"),
    "size_of_floats": ({"size": (5.0, 6)}, r"size is \(5.0, 6\), expected \(height, width\) .* as ints"),
    "size_negative": ({"size": (-5, -6)}, r"size is \(-5, -6\), expected \(height, width\)"),
    "size_number": ({"size": 30}, r"size is 30, expected \(height, width\)"),
    "offset_mask_pixels": (
        {"offset_mask": torch.zeros(2, 20, 56)},
        "offset_mask has 20 pixels, expected 5x6 for an input of 5x6 with kernel_size=",
    ),
    "offset_mask_stride": ({"stride": 2}, "offset_mask has 30 pixels, expected 3x3 for an input of 5x6"),
}


@pytest.mark.parametrize("wrong, message", WRONG.values(), ids=WRONG)
def test_wrong_argument(wrong, message):
    with pytest.raises(ValueError, match=message):
        dcnv4(**{**GOOD, **wrong})


@pytest.mark.parametrize("wrong, message", WRONG_IN_A_ROW.values(), ids=WRONG_IN_A_ROW)
def test_wrong_argument_with_pixels_in_one_row(wrong, message):
    with pytest.raises(ValueError, match=message):
        dcnv4(**{**IN_A_ROW, **wrong})


def test_the_good_calls_they_start_from():
    assert dcnv4(**GOOD).shape == (2, 5, 6, 8)
    assert dcnv4(**IN_A_ROW).shape == (2, 30, 8)


def test_arguments_after_kernel_size_are_keywords():
    with pytest.raises(TypeError):
        dcnv4(GOOD["input"], GOOD["offset_mask"], 3, 1)


def test_an_unknown_backend_is_named_with_those_there_are():
    with pytest.raises(BackendError, match="there is no backend 'cuda'; the backends are 'triton', 'cpu'"):
        dcnv4(**GOOD, backend="cuda")


def test_meta_tensors_give_the_shape_and_nothing_else():
    tensors = {name: value.to("meta") for name, value in GOOD.items() if isinstance(value, torch.Tensor)}
    output = dcnv4(**tensors, groups=2)
    assert output.is_meta and output.shape == (2, 5, 6, 8)


@pytest.mark.parametrize("groups, width", [(1, 32), (4, 112), (5, 136), (8, 216), (10, 272)])
def test_width_is_rounded_up_to_a_multiple_of_eight(groups, width):
    assert packed_channels(Geometry(groups=groups)) == width


def test_width_without_the_middle_tap():
    assert packed_channels(Geometry(groups=3, remove_center=True)) == 72


@pytest.mark.parametrize(
    "offset, mask, groups, message",
    [
        ([1.0], torch.zeros(1, 4, 5, 18), 2, "offset is a list, expected a torch.Tensor"),
        (torch.zeros(1, 4, 5, 36), torch.zeros(1, 4, 5, 18), 0, "groups is 0, expected an int >= 1"),
        (torch.zeros(1, 4, 5, 36), torch.zeros(1, 4, 5, 18), 4, r"expected \(N, H_out, W_out, groups\*P\*2\)"),
        (torch.zeros(1, 4, 5, 36), torch.zeros(1, 4, 5, 17), 1, r"mask \(1, 4, 5, 17\), expected"),
        (torch.zeros(1, 4, 6, 36), torch.zeros(1, 4, 5, 18), 2, r"offset has shape \(1, 4, 6, 36\) and mask"),
        (torch.zeros(20, 36), torch.zeros(20, 18), 2, r"offset has shape \(20, 36\)"),
    ],
)
def test_refuses_to_pack_what_does_not_fit(offset, mask, groups, message):
    with pytest.raises(ValueError, match=message):
        pack_offset_mask(offset, mask, groups)


def test_pixels_in_one_row_are_the_maps_flattened():
    random = torch.Generator().manual_seed(0)
    image, packed = torch.randn(2, 5, 6, 8, generator=random), torch.randn(2, 3, 6, 56, generator=random)
    maps = dcnv4(image, packed, groups=2, stride=(2, 1))
    row = dcnv4(image.flatten(1, 2), packed.flatten(1, 2), groups=2, stride=(2, 1), size=(5, 6))
    assert torch.equal(row, maps.flatten(1, 2))
