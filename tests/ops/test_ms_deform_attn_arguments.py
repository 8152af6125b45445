"""Bad input for every argument of attention: one clear error that names the argument, what came and what fits."""

from __future__ import annotations

import pytest
import torch

from internimage.ops import BackendError, ms_deform_attn, ms_deform_attn_packed

GOOD = {
    "value": torch.zeros(2, 26, 3, 4),
    "spatial_shapes": ((4, 5), (2, 3)),
    "sampling_locations": torch.zeros(2, 7, 3, 2, 6, 2),
    "attention_weights": torch.zeros(2, 7, 3, 2, 6),
}
GOOD_PACKED = {
    "value": GOOD["value"],
    "spatial_shapes": GOOD["spatial_shapes"],
    "locations_logits": torch.zeros(2, 7, 3, 36),
}

WRONG = {
    "value_list": ({"value": [1.0]}, "value is a list, expected a torch.Tensor"),
    "weights_none": ({"attention_weights": None}, "attention_weights is a NoneType, expected a torch.Tensor"),
    "value_3_axes": ({"value": torch.zeros(2, 26, 12)}, r"value has shape \(2, 26, 12\), expected four axes"),
    "locations_5_axes": (
        {"sampling_locations": torch.zeros(2, 7, 3, 2, 12)},
        "sampling_locations has shape .* expected six axes",
    ),
    "shapes_empty": ({"spatial_shapes": ()}, r"spatial_shapes is \(\), expected a \(height, width\) for each"),
    "shapes_number": ({"spatial_shapes": 20}, r"spatial_shapes is 20, expected a \(height, width\)"),
    "shapes_negative": ({"spatial_shapes": ((4, 5), (-2, -3))}, r"spatial_shapes is .*-3.*, expected a \(height"),
    "shapes_triples": (
        {"spatial_shapes": torch.zeros(2, 3, dtype=torch.int64)},
        "spatial_shapes is tensor[^$]* expected",
    ),
    "shapes_fractions": ({"spatial_shapes": ((4, 5), (2.5, 3))}, "spatial_shapes is .* in whole numbers"),
    "shapes_tensor_of_floats": ({"spatial_shapes": torch.tensor([[4.0, 5.0], [2.0, 3.0]])}, "in whole numbers"),
    "no_heads": ({"value": torch.zeros(2, 26, 0, 4)}, "value has shape .* expected at least one head of at least one"),
    "no_channels": ({"value": torch.zeros(2, 26, 3, 0)}, "expected at least one head of at least one channel"),
    "no_points": (
        {
            "sampling_locations": torch.zeros(2, 7, 3, 2, 0, 2),
            "attention_weights": torch.zeros(2, 7, 3, 2, 0),
        },
        r"sampling_locations has shape .* expected \(2, 7, 3, 2, 1, 2\)",
    ),
    "pixels": (
        {"spatial_shapes": ((4, 5), (2, 2))},
        "value has 26 pixels, expected 24 for the levels 4x5, 2x2 of spatial_shapes",
    ),
    "levels": (
        {"spatial_shapes": ((4, 5), (2, 3), (0, 9))},
        r"sampling_locations has shape .* expected \(2, 7, 3, 3, 6, 2\) for value of .* and 3 levels",
    ),
    "heads": (
        {"value": torch.zeros(2, 26, 6, 2)},
        r"sampling_locations has shape .* expected \(2, 7, 6, 2, 6, 2\)",
    ),
    "weights_points": (
        {"attention_weights": torch.zeros(2, 7, 3, 2, 5)},
        r"attention_weights has shape \(2, 7, 3, 2, 5\), expected \(2, 7, 3, 2, 6\)",
    ),
    "weights_batch": (
        {"attention_weights": torch.zeros(1, 7, 3, 2, 6)},
        r"attention_weights has shape \(1, 7, 3, 2, 6\), expected \(2, 7, 3, 2, 6\)",
    ),
    "value_whole_numbers": (
        {"value": torch.zeros(2, 26, 3, 4, dtype=torch.int64)},
        "value is torch.int64, expected float32",
    ),
    "locations_other_dtype": (
        {"sampling_locations": torch.zeros(2, 7, 3, 2, 6, 2).double()},
        "sampling_locations is torch.float64 .* expected torch.float32",
    ),
    "weights_other_device": (
        {"attention_weights": torch.zeros(2, 7, 3, 2, 6, device="meta")},
        "attention_weights is .* on meta, expected .* on cpu",
    ),
}
WRONG_PACKED = {
    "three_axes": ({"locations_logits": torch.zeros(2, 7, 108)}, "locations_logits has shape .* expected four axes"),
    "no_multiple": (
        {"locations_logits": torch.zeros(2, 7, 3, 35)},
        r"locations_logits has shape \(2, 7, 3, 35\), expected \(2, Q, 3, a multiple of 6\)",
    ),
    "nothing": ({"locations_logits": torch.zeros(2, 7, 3, 0)}, "expected .* a multiple of 6"),
    "heads": ({"locations_logits": torch.zeros(2, 7, 4, 36)}, r"expected \(2, Q, 3, a multiple of 6\)"),
    "pixels": ({"value": torch.zeros(2, 25, 3, 4)}, "value has 25 pixels, expected 26"),
}


@pytest.mark.parametrize("wrong, message", WRONG.values(), ids=WRONG)
def test_wrong_argument(wrong, message):
    with pytest.raises(ValueError, match=message):
        ms_deform_attn(**{**GOOD, **wrong})


@pytest.mark.parametrize("wrong, message", WRONG_PACKED.values(), ids=WRONG_PACKED)
def test_wrong_argument_of_the_packed_form(wrong, message):
    with pytest.raises(ValueError, match=message):
        ms_deform_attn_packed(**{**GOOD_PACKED, **wrong})


def test_the_good_calls_they_start_from():
    assert ms_deform_attn(**GOOD).shape == (2, 7, 12)
    assert ms_deform_attn_packed(**GOOD_PACKED).shape == (2, 7, 12)


def test_backend_is_a_keyword():
    with pytest.raises(TypeError):
        ms_deform_attn(*GOOD.values(), "reference")


def test_an_unknown_backend_is_named_with_those_there_are():
    with pytest.raises(BackendError, match="there is no backend 'cuda'; the backends are 'triton', 'cpu'"):
        ms_deform_attn(**GOOD, backend="cuda")


def test_meta_tensors_give_the_shape_and_nothing_else():
    tensors = {name: value.to("meta") for name, value in GOOD.items() if isinstance(value, torch.Tensor)}
    output = ms_deform_attn(**{**GOOD, **tensors})
    assert output.is_meta and output.shape == (2, 7, 12)


@pytest.mark.parametrize("shapes", [[[4, 5], [2, 3]], torch.tensor([[4, 5], [2, 3]]), [torch.Size((4, 5)), (2, 3)]])
def test_shapes_come_as_a_tensor_or_as_pairs(shapes):
    assert ms_deform_attn(**{**GOOD, "spatial_shapes": shapes}).shape == (2, 7, 12)
