"""Where DCNv3 and DCNv4 sample: numbers that follow from the definition, and a drawing of them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from internimage.draw_sampling import MARGIN, PANEL, TOP, draw_sampling, group_colors
from internimage.explain import sampling_points
from internimage.layers import DCNv3
from tests.models.variants import images, make
from tests.small_model import small_model
from tests.tolerances import assert_close

IMAGE = torch.rand(1, 1, 64, 96, generator=torch.Generator().manual_seed(0))
PICTURE = Image.fromarray((IMAGE[0, 0] * 255).to(torch.uint8).numpy())


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def untrained():
    """Zero offsets and an even mask, as a new network has them."""
    model = small_model()
    for module in model.modules():
        if isinstance(module, DCNv3):
            module.reset_parameters()
    return model


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_without_offsets_the_points_are_those_of_a_plain_convolution(untrained, stage):
    stride = 4 * 2 ** (stage - 1)
    got = sampling_points(untrained, IMAGE, stage, 0, (stride, stride))
    assert (got.output_pixel, got.center, got.stride) == ((1, 1), (stride, stride), stride)
    want = torch.tensor([[x, y] for x in (0, 1, 2) for y in (0, 1, 2)]) * stride
    assert torch.equal(got.grid, want.float())
    assert (got.points - want).abs().max() < 1e-5 and (got.weights - 1 / 9).abs().max() < 1e-6


def test_only_pixels_under_the_points_change_the_layer_output(model):
    """The layer's own output at that pixel depends on its input only where the points say (bilinear neighbours)."""
    got = sampling_points(model, IMAGE, 1, 0, (40, 24))
    layer, seen = model.backbone.levels[0].blocks[0].dcn, []
    handle = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    model.backbone(IMAGE)
    handle.remove()
    x = seen[0].requires_grad_()
    _, offset, logits = layer.sampling(x.detach())
    values = layer.input_proj(x)
    from internimage.ops.dcnv3 import dcnv3_from_logits

    column, row = got.output_pixel
    dcnv3_from_logits(values, offset, logits, layer.geometry)[0, row, column].sum().backward()
    touched = {(int(c), int(r)) for r, c in x.grad[0].abs().sum(-1).nonzero().tolist()}
    at = got.points.flatten(0, 1) / got.stride
    under = {(int(c) + i, int(r) + j) for c, r in at.floor().tolist() for i in (0, 1) for j in (0, 1)}
    assert touched and touched <= under


def test_weights_of_a_group_add_up_to_one(model):
    got = sampling_points(model, IMAGE, 3, 1)
    assert got.points.shape == (4, 9, 2) and got.weights.shape == (4, 9)
    assert (got.weights.sum(-1) - 1).abs().max() < 1e-5
    assert (got.stage, got.block) == (3, 1)


def test_the_last_block_and_the_middle_are_the_default(model):
    assert sampling_points(model, IMAGE, 3).block == 1
    assert sampling_points(model, IMAGE, 1).output_pixel == (12, 8)
    assert sampling_points(model.backbone, IMAGE[0], 1).output_pixel == (12, 8)


def test_corners_belong_to_the_picture(model):
    assert sampling_points(model, IMAGE, 1, 0, (0, 0)).output_pixel == (0, 0)
    assert sampling_points(model, IMAGE, 1, 0, (95, 63)).output_pixel == (23, 15)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"stage": 0}, "stage is 0"),
        ({"stage": 5}, "expected 1 to 4"),
        ({"block": 2}, "has 2 blocks"),
        ({"block": -3}, "expected 0 to 1"),
        ({"position": (96, 0)}, "x from 0 to 95"),
        ({"position": (0, -1)}, "y from 0 to 63"),
        ({"position": (float("nan"), 0)}, "position"),
        ({"image": IMAGE[0, 0]}, "one picture"),
        ({"image": IMAGE.expand(2, -1, -1, -1)}, "one picture"),
        ({"model": torch.nn.Identity()}, "no levels"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_does_not_fit_is_named(model, arguments, words):
    with pytest.raises(ValueError, match=words):
        sampling_points(**{"model": model, "image": IMAGE, "stage": 1, **arguments})


def test_a_damaged_model_is_named():
    model = small_model()
    torch.nn.init.constant_(model.backbone.levels[0].blocks[0].dcn.mask.weight, float("nan"))
    with pytest.raises(ValueError, match="no numbers in float32; the weights may be damaged"):
        sampling_points(model, IMAGE, 1, 0)


def test_it_survives_json_with_points_that_are_no_numbers(model):
    got = sampling_points(model, IMAGE)
    got.points[0, 0, 0] = float("nan")
    back = json.loads(json.dumps(got.as_dict(), allow_nan=False))
    assert back["points"][0][0][0] is None and np.shape(back["weights"]) == (4, 9)


@pytest.mark.parametrize("stage", [1, 4])
def test_the_drawing_shows_dots_where_the_points_are(model, stage):
    sampling = sampling_points(model, IMAGE, stage)
    drawn = draw_sampling(PICTURE, sampling, "small")
    pixels = np.asarray(drawn).astype(int)
    assert pixels.shape[1] > 2 * PANEL
    colors = np.array(group_colors(len(sampling.weights)))
    near = (np.abs(pixels[:, :, None] - colors).max(-1) < 60)[:, : PANEL + 24]
    assert near.any(axis=(0, 1)).all(), "every group has its colour in the left panel"


@pytest.mark.parametrize("value", [float("nan"), 1e30, -1e30])
def test_points_far_away_or_nowhere_do_not_stop_the_drawing(model, value):
    sampling = sampling_points(model, IMAGE, 1)
    sampling.points[0, :3] = value
    assert draw_sampling(PICTURE, sampling).width > 2 * PANEL


def test_no_dot_beside_the_picture_is_cut(untrained):
    """One heavy point a fifth of the picture to the left of it, at the height where no other is."""
    sampling = sampling_points(untrained, IMAGE, 4)
    sampling.points[0, 0] = torch.tensor([-0.2 * IMAGE.shape[-1], 5.0])
    sampling.weights[0, 0] = 1.0
    pixels = np.asarray(draw_sampling(PICTURE, sampling)).astype(int)
    dot = np.abs(pixels[:, : PANEL + MARGIN] - group_colors(1)[0]).max(-1) < 20
    assert dot[:, MARGIN + 4 :].any() and not dot[TOP : TOP + PANEL, : MARGIN + 2].any()


@pytest.mark.parametrize("groups", [1, 6, 7, 128])
def test_as_many_colours_as_groups(groups):
    assert len(set(group_colors(groups))) == groups


@pytest.mark.parametrize("family", ["flash_t", "t_on_the_operator_of_dcnv4"])
def test_the_weights_are_those_that_the_layer_uses(family):
    """Of DCNv4 raw numbers of either sign; the output at the pixel is the sum of what they weigh."""
    model = make(family)
    image = images(1)
    got = sampling_points(model, image, 1, 0, (20, 24))
    layer, seen = model.backbone.levels[0].blocks[0].dcn, []
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    with torch.no_grad():
        model.backbone(image)
    handle.remove()
    x, output = seen[0]
    flash = family == "flash_t"
    assert got.operator == ("DCNv4" if flash else "DCNv3")
    assert bool((got.weights < 0).any()) == flash
    values = (layer.value_proj if flash else layer.input_proj)(x)
    column, row = got.output_pixel
    mine = torch.zeros(layer.channels)
    depth = layer.channels // len(got.weights)
    for group, (points, weights) in enumerate(zip(got.points / got.stride, got.weights, strict=True)):
        for (at_x, at_y), weight in zip(points.tolist(), weights.tolist(), strict=True):
            share_x = (1 - (torch.arange(x.shape[2]) - at_x).abs()).clamp_min(0)
            share_y = (1 - (torch.arange(x.shape[1]) - at_y).abs()).clamp_min(0)
            sample = torch.einsum("h,w,hwc->c", share_y, share_x, values[0, ..., depth * group : depth * (group + 1)])
            mine[depth * group : depth * (group + 1)] += weight * sample
    assert_close(layer.output_proj(mine), output[0, row, column], "module")


def test_weights_below_zero_are_drawn_as_rings():
    model = make("flash_t")
    sampling = sampling_points(model, images(1), 1, 0)
    picture = Image.new("RGB", (64, 64), "black")
    rings = np.asarray(draw_sampling(picture, sampling)).astype(int)
    filled = np.asarray(draw_sampling(picture, replace(sampling, weights=sampling.weights.abs()))).astype(int)
    white = [(image[TOP : TOP + PANEL, MARGIN : MARGIN + PANEL].min(-1) > 250).sum() for image in (rings, filled)]
    assert white[0] > white[1]
