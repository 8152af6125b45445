"""The attention layer: initial values, references, padding, empty levels, precision, graphs, and what it refuses.

Recorded tensors of the released module are compared in ``tests/parity/test_attention_module.py``.
"""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

from internimage.layers import MSDeformAttn
from internimage.ops import BackendError, ms_deform_attn
from tests.tolerances import assert_close

SIZES = ((6, 8), (3, 4))
PIXELS = 60


def make(dtype: torch.dtype = torch.float64, **options) -> MSDeformAttn:
    torch.manual_seed(0)
    layer = MSDeformAttn(**{"channels": 12, "levels": 2, "heads": 3, "points": 2, **options})
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer.to(dtype)


def inputs(dtype: torch.dtype = torch.float64, n: int = 2, queries: int = 5, pixels: int = PIXELS, levels: int = 2):
    """Queries, reference points and values."""
    random = torch.Generator().manual_seed(1)
    shapes = (n, queries, 12), (n, pixels, 12)
    query, value = (torch.randn(shape, generator=random, dtype=torch.float64).to(dtype) for shape in shapes)
    return query, torch.rand(n, queries, levels, 2, generator=random, dtype=torch.float64).to(dtype), value


def sum_of_parts(layer: MSDeformAttn, query: Tensor, reference: Tensor, value: Tensor, sizes=SIZES) -> Tensor:
    """The module in plain steps and in words of its own, with the public operator; a location at a time."""
    n, queries = query.shape[:2]
    heads, levels, points = layer.heads, layer.levels, layer.points
    offsets = layer.sampling_offsets(query).view(n, queries, heads, levels, points, 2)
    weights = layer.attention_weights(query).view(n, queries, heads, levels * points)
    weights = weights.softmax(-1) if layer.softmax else weights
    locations = torch.empty_like(offsets)
    for level, (height, width) in enumerate(sizes):
        for point in range(points):
            if reference.shape[-1] == 2:
                step = offsets[:, :, :, level, point] / offsets.new_tensor((max(width, 1), max(height, 1)))
            else:
                step = offsets[:, :, :, level, point] / points * reference[:, :, None, level, 2:] / 2
            locations[:, :, :, level, point] = reference[:, :, None, level, :2] + step
    values = layer.value_proj(value).view(n, -1, heads, layer.channels // heads)
    weights = weights.view(n, queries, heads, levels, points)
    return layer.output_proj(ms_deform_attn(values, sizes, locations, weights, backend="reference"))


@pytest.mark.parametrize("softmax", [True, False], ids=["softmax", "raw"])
@pytest.mark.parametrize("box", [False, True], ids=["points", "boxes"])
def test_forward_and_gradients_are_those_of_the_sum_of_its_parts(box, softmax):
    layer, (query, reference, value) = make(softmax=softmax), inputs()
    reference = torch.cat((reference, 0.1 + reference / 2), -1) if box else reference
    leaves = [tensor.requires_grad_() for tensor in (query, reference, value)] + list(layer.parameters())
    want = sum_of_parts(layer, query, reference, value)
    got = layer(query, reference, value, SIZES)
    assert_close(got, want, "module")
    grad_output = torch.randn_like(want)
    wanted = torch.autograd.grad(want, leaves, grad_output)
    for a, b in zip(torch.autograd.grad(got, leaves, grad_output), wanted, strict=True):
        assert_close(a, b, "module gradient")


@pytest.mark.parametrize(
    "options", [{"levels": 1}, {"levels": 5, "points": 1}, {"heads": 1, "points": 7}, {"heads": 12}], ids=str
)
def test_any_number_of_levels_heads_and_points(options):
    layer = make(**options)
    sizes = [(3, 4 + level) for level in range(layer.levels)]
    query, reference, value = inputs(pixels=sum(h * w for h, w in sizes), levels=layer.levels)
    assert_close(layer(query, reference, value, sizes), sum_of_parts(layer, query, reference, value, sizes), "module")


def test_sizes_may_be_a_tensor():
    layer, tensors = make(), inputs()
    assert torch.equal(layer(*tensors, torch.tensor(SIZES)), layer(*tensors, SIZES))


def test_padded_pixels_count_as_zero_after_the_projection():
    layer, (query, reference, value) = make(), inputs()
    mask = torch.rand(2, PIXELS, generator=torch.Generator().manual_seed(2)) < 0.4
    strange = value.masked_fill(mask.unsqueeze(-1), 1e6)
    got = layer(query, reference, strange, SIZES, mask)
    assert torch.equal(got, layer(query, reference, value, SIZES, mask))
    assert not torch.allclose(got, layer(query, reference, value, SIZES))


def test_all_pixels_padded_leave_the_bias_of_the_last_projection():
    layer, tensors = make(), inputs()
    got = layer(*tensors, SIZES, torch.ones(2, PIXELS, dtype=torch.bool))
    assert torch.equal(got, layer.output_proj.bias.expand_as(got))


@pytest.mark.parametrize("sizes", [((6, 8), (0, 4)), ((0, 0), (6, 8)), ((0, 3), (2, 0))], ids=str)
def test_empty_levels_take_their_share_of_the_softmax_and_give_nothing(sizes):
    layer = make()
    query, reference, value = inputs(pixels=sum(h * w for h, w in sizes))
    got = layer(query, reference, value, sizes)
    assert_close(got, sum_of_parts(layer, query, reference, value, sizes), "module")
    got.sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


@pytest.mark.parametrize(("n", "queries"), [(0, 5), (2, 0)])
def test_no_images_and_no_queries(n, queries):
    assert make()(*inputs(n=n, queries=queries), SIZES).shape == (n, queries, 12)


# Initial values


def test_heads_look_into_all_directions_further_with_each_point():
    layer = MSDeformAttn(channels=32, levels=3, heads=8, points=4)
    assert not layer.sampling_offsets.weight.any()
    assert not layer.attention_weights.weight.any() and not layer.attention_weights.bias.any()
    offsets = layer.sampling_offsets.bias.view(8, 3, 4, 2)
    diagonal = {(0, 1): (1, 0), (1, 1): (1, 1), (2, 3): (0, 3), (4, 2): (-2, 0), (7, 4): (4, -4)}
    for (head, point), (x, y) in diagonal.items():
        for level in range(3):
            assert offsets[head, level, point - 1].tolist() == pytest.approx([x, y], abs=1e-5)
    bound = math.sqrt(6 / 64)
    for linear in (layer.value_proj, layer.output_proj):
        assert linear.weight.abs().max() <= bound and not linear.bias.any()


def test_parameters_have_the_released_names():
    shapes = {name: tuple(value.shape) for name, value in MSDeformAttn().state_dict().items()}
    assert shapes == {
        "sampling_offsets.weight": (256, 256),
        "sampling_offsets.bias": (256,),
        "attention_weights.weight": (128, 256),
        "attention_weights.bias": (128,),
        "value_proj.weight": (256, 256),
        "value_proj.bias": (256,),
        "output_proj.weight": (256, 256),
        "output_proj.bias": (256,),
    }


# Precision

WIDE = ((100, 152), (50, 76))


def wide_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """A map whose values change from pixel to pixel, so that a wrong position shows."""
    query, reference, value = inputs(queries=200, pixels=sum(h * w for h, w in WIDE), n=1)
    return query, reference.bfloat16().double(), value  # what a half layer gets of them is exact


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("autocast", [False, True], ids=["half_module", "autocast"])
def test_half_types_still_know_where_they_look_on_wide_levels(dtype, autocast):
    """Locations in bfloat16 would be off by up to 0.3 pixels here, and the output by a third of itself."""
    query, reference, value = (tensor.to(dtype).double() for tensor in wide_inputs())
    layer = make(torch.float64)
    nn.init.zeros_(layer.sampling_offsets.weight)  # offsets from the bias alone, so that their own rounding is no part
    layer.to(dtype).to(torch.float64)
    want = layer(query, reference, value, WIDE)
    if autocast:
        layer = layer.float()
        with torch.autocast("cpu", dtype):
            got = layer(query.float(), reference.float(), value.float(), WIDE)
    else:
        got = layer.to(dtype)(query.to(dtype), reference.to(dtype), value.to(dtype), WIDE)
    assert got.dtype == dtype
    assert_close(got, want, "module")


def test_autocast_trains_float32_parameters():
    layer, (query, reference, value) = make(torch.float32), inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(query, reference, value, SIZES)
    output.float().square().sum().backward()
    assert {parameter.grad.dtype for parameter in layer.parameters()} == {torch.float32}
    assert all(parameter.grad.any() for parameter in layer.parameters())


# Copies and graphs


def test_copies_pickles_and_files():
    layer, tensors = make(), inputs()
    want = layer(*tensors, SIZES)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(file, weights_only=False)):
        assert torch.equal(other(*tensors, SIZES), want)


class Encoder(nn.Module):
    """The maps of two levels as a detector has them; their sizes are known to the tracer only."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = make(torch.float32)

    def forward(self, query: Tensor, reference: Tensor, fine: Tensor, coarse: Tensor) -> Tensor:
        value = torch.cat([level.flatten(2).transpose(1, 2) for level in (fine, coarse)], 1)
        return self.attention(query, reference, value, [fine.shape[2:], coarse.shape[2:]])


def maps(n: int, queries: int, fine: tuple[int, int], coarse: tuple[int, int]) -> tuple[Tensor, ...]:
    query, reference, _ = inputs(torch.float32, n, queries)
    random = torch.Generator().manual_seed(3)
    return query, reference, *(torch.randn(n, 12, *size, generator=random) for size in (fine, coarse))


def test_exports_with_levels_of_any_size():
    any_map, any_rows = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}, {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    model = Encoder().eval()
    shapes = (any_rows, any_rows, any_map, any_map)
    program = export(model, maps(2, 5, (6, 8), (3, 4)), dynamic_shapes=shapes)
    assert not [node for node in program.graph.nodes if "internimage" in str(node.target)]
    for call in (maps(2, 5, (6, 8), (3, 4)), maps(3, 9, (9, 7), (5, 2))):
        assert_close(program.module()(*call), model(*call), "module")


def test_compiles_for_levels_of_any_size():
    torch.compiler.reset()
    model = Encoder()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for call in (maps(2, 5, (6, 8), (3, 4)), maps(2, 5, (9, 7), (5, 2))):
        want, got = model(*call), compiled(*call)
        assert torch.equal(got, want)
        got.sum().backward()
    torch.compiler.reset()


# Refusals

REFUSED = {
    "channels": ({"channels": 10, "heads": 4}, "channels=10 is not a multiple of heads=4"),
    "heads": ({"heads": 0}, "heads is 0, expected an int >= 1"),
    "levels": ({"levels": 1.0}, "levels is 1.0, expected an int >= 1"),
    "points": ({"points": -1}, "points is -1, expected an int >= 1"),
}


@pytest.mark.parametrize("options, message", REFUSED.values(), ids=REFUSED)
def test_refuses_to_be_built(options, message):
    with pytest.raises(ValueError, match=message):
        MSDeformAttn(**options)


def test_refuses_an_unknown_backend_when_it_is_built():
    with pytest.raises(BackendError, match="there is no backend 'cuda'"):
        MSDeformAttn(backend="cuda")


WRONG = {
    "query_list": ({"query": [1.0]}, "query is a list, expected a torch.Tensor"),
    "query_dtype": (
        {"query": torch.zeros(2, 5, 12)},
        "query is torch.float32, expected torch.float64 like the weights",
    ),
    "query_channels": (
        {"query": torch.zeros(2, 5, 8).double()},
        r"query has shape \(2, 5, 8\), expected \(N, rows, 12\)",
    ),
    "value_maps": ({"value": torch.zeros(2, 12, 6, 10).double()}, r"value has shape .* expected \(N, rows, 12\)"),
    "value_batch": ({"value": torch.zeros(3, PIXELS, 12).double()}, "query has 2 images, value 3"),
    "value_pixels": ({"value": torch.zeros(2, 59, 12).double()}, "value has 59 pixels, expected 60 for the levels 6x8"),
    "reference_none": ({"reference_points": None}, "reference_points is a NoneType"),
    "reference_axes": ({"reference_points": torch.zeros(2, 5, 2)}, r"expected \(2, 5, 2, 2\) or \(..., 4\)"),
    "reference_three": ({"reference_points": torch.zeros(2, 5, 2, 3)}, r"expected \(2, 5, 2, 2\) or \(..., 4\)"),
    "levels": ({"spatial_shapes": [(6, 10)]}, "spatial_shapes has 1 levels, expected 2"),
    "sizes": ({"spatial_shapes": [(6, 8), (3.0, 4)]}, "spatial_shapes is .* in whole numbers"),
    "mask_numbers": ({"padding_mask": torch.zeros(2, PIXELS)}, "padding_mask is torch.float32 of .* expected bool"),
    "mask_shape": ({"padding_mask": torch.zeros(2, 59) > 0}, r"padding_mask is torch.bool of \(2, 59\), expected bool"),
}


@pytest.mark.parametrize("wrong, message", WRONG.values(), ids=WRONG)
def test_refuses(wrong, message):
    query, reference, value = inputs()
    call = {"query": query, "reference_points": reference, "value": value, "spatial_shapes": SIZES}
    with pytest.raises(ValueError, match=message):
        make()(**{**call, **wrong})
