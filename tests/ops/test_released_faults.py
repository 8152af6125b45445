"""What is wrong in the released kernels and their Python is right here: one test for each line of docs/operators.md."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from internimage.layers import MSDeformAttn
from internimage.ops import dcnv3, dcnv4, ms_deform_attn
from internimage.ops.geometry import Geometry
from tests.tolerances import assert_close

from .attention_cases import AttentionCase, assert_same_attention, run_attention
from .cases import BACKENDS, assert_same, draw, near_lattice, needs_kernel, run
from .packed_cases import forward_packed, pack, run_packed

EVERY_BACKEND = pytest.mark.parametrize("backend", BACKENDS)
FASTEST = pytest.mark.parametrize("backend", [pytest.param("cpu", marks=needs_kernel)])


@pytest.mark.parametrize(("side", "groups"), [(14, 16), (7, 32)], ids=["14x14", "7x7"])
@FASTEST
def test_dcnv4_reads_each_image_of_a_batch_in_its_own_place(backend, side, groups):
    """Batch 8 at 224 pixels in the two last levels: the released kernel reads the next image where a block goes on."""
    inputs = draw((8, side, side), 16, Geometry(groups=groups), seed=side).to(torch.float32)
    packed = pack(inputs, unused=0.0)
    batch = forward_packed(inputs, packed, backend)
    for index in range(8):
        one = replace(inputs, input=inputs.input[index : index + 1])
        assert torch.equal(forward_packed(one, packed[index : index + 1], backend)[0], batch[index])


@pytest.mark.parametrize("size", [(3, 7, 11), (5, 1, 13), (1, 17, 19)], ids=str)
@EVERY_BACKEND
def test_dcnv4_takes_numbers_of_pixels_without_a_divisor(backend, size):
    """The released launch wants the pixels of a batch to be a multiple of its block."""
    inputs = draw(size, 4, Geometry(groups=2))
    assert_same(run_packed(inputs, backend), run(inputs, "reference"), "operator")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@EVERY_BACKEND
def test_dcnv4_has_gradients_in_bfloat16_and_values_in_float64(backend, dtype):
    inputs = draw((2, 5, 6), 16, Geometry(groups=2)).to(dtype)
    want = run(inputs.to(torch.float64), "reference")
    assert_same(run_packed(inputs, backend), want, "operator", ignore=near_lattice(inputs))


@pytest.mark.parametrize("kernel", [1, 2, 5, (3, 1)], ids=str)
@pytest.mark.parametrize("depth", [1, 7, 24])
@EVERY_BACKEND
def test_dcnv4_takes_every_kernel_and_every_number_of_channels(backend, depth, kernel):
    geometry = Geometry.of(kernel, 1, 1, 1, 2, 1.0, False)
    inputs = draw((1, 6, 5), depth, geometry)
    assert_same(run_packed(inputs, backend), run(inputs, "reference"), "operator")


@EVERY_BACKEND
def test_dcnv4_softmax_is_a_switch_that_does_something(backend):
    inputs = draw((1, 4, 5), 3, Geometry(groups=2))
    shares = inputs.mask.unflatten(-1, (2, 9)).softmax(-1).flatten(-2)
    want = forward_packed(replace(inputs, mask=shares), pack(replace(inputs, mask=shares)), backend)
    assert_close(forward_packed(inputs, pack(inputs), backend, softmax=True), want, "operator")
    assert not torch.allclose(forward_packed(inputs, pack(inputs), backend), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_attention_keeps_the_dtype_it_is_given(dtype):
    """The released layer computes in float16 whatever comes, with locations to 1e-3."""
    layer = MSDeformAttn(16, 1, 2, 2).to(dtype)
    reference = torch.tensor([0.5001, 0.5], dtype=dtype).view(1, 1, 1, 2)
    value = torch.arange(1000, dtype=dtype).view(1, 1000, 1).expand(-1, -1, 16)
    layer.value_proj.weight.data.copy_(torch.eye(16))
    layer.output_proj.weight.data.copy_(torch.eye(16))
    layer.sampling_offsets.bias.data.zero_()
    output = layer(torch.zeros(1, 1, 16, dtype=dtype), reference, value, [(1, 1000)])
    assert output.dtype == dtype
    # a row of numbers that tell their place, 0.5001 * 1000 - 0.5; 0.5001 is 0.5 in float16
    assert output.flatten().tolist() == pytest.approx([499.6] * 16, abs=1e-3)


@pytest.mark.parametrize("softmax", [False, True], ids=["weights", "logits"])
@EVERY_BACKEND
def test_attention_writes_all_memory_that_its_backward_pass_reads(backend, softmax):
    """Fresh memory is NaN here: the released backward pass reads what it never wrote for samples outside a level."""
    inputs = AttentionCase("far_away", beyond=20.0).make(torch.float32)
    want = run_attention(inputs.to(torch.float64), "reference", softmax)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory and torch.empty(9).isnan().all()
        got = run_attention(inputs, backend, softmax)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(tensor.isfinite().all() for tensor in got)
    assert_same_attention(got, want, "wide map")


@pytest.mark.parametrize(("levels", "points"), [(1, 3), (6, 2), (2, 5)])
@EVERY_BACKEND
def test_attention_takes_any_number_of_levels_and_points(backend, levels, points):
    case = AttentionCase("any", tuple((2, 2 + level) for level in range(levels)), points=points, n=1)
    assert_same_attention(run_attention(case.make(), backend), run_attention(case.make(), "reference"), "operator")


@EVERY_BACKEND
def test_dcnv3_takes_other_paddings_for_height_and_width(backend):
    """The released PyTorch form pads the height by the padding of the width; the CUDA kernel is right."""
    image = torch.randn(1, 5, 6, 4, dtype=torch.float64)
    offset, mask = torch.zeros(1, 7, 4, 6, dtype=torch.float64), torch.zeros(1, 7, 4, 3, dtype=torch.float64)
    mask[..., 1] = 1  # the middle tap alone
    output = dcnv3(image, offset, mask, (1, 3), padding=(1, 0), backend=backend)
    assert_close(output[:, 1:-1], image[:, :, 1:-1], "export form")
    assert not output[:, [0, -1]].any()


@EVERY_BACKEND
def test_dcnv3_in_float64_knows_its_positions_in_float64(backend):
    """Released: a grid in float32, and an offset scale that is rounded to float32."""
    image = torch.arange(9.0, dtype=torch.float64).view(1, 1, 9, 1)
    offset, mask = torch.zeros(1, 1, 9, 2, dtype=torch.float64), torch.ones(1, 1, 9, 1, dtype=torch.float64)
    offset[..., 0] = 1
    output = dcnv3(image, offset, mask, 1, padding=0, offset_scale=0.1, backend=backend)
    assert output.flatten()[:8].tolist() == pytest.approx([place + 0.1 for place in range(8)], abs=1e-12)


@pytest.mark.parametrize("batch", [1, 7, 257])
@FASTEST
def test_any_batch_any_strides(backend, batch):
    """Released: the batch divides by ``im2col_step`` of 256, and tensors are contiguous."""
    inputs = draw((batch, 2, 3), 2, Geometry(groups=1), seed=batch).to(torch.float32)
    strided = replace(inputs, input=inputs.input.transpose(1, 2).contiguous().transpose(1, 2))
    assert torch.equal(run(strided, backend).output, run(inputs, backend).output)


def test_a_middle_that_an_even_kernel_does_not_have_is_not_left_out():
    with pytest.raises(ValueError, match="remove_center needs a kernel that is odd on both axes"):
        dcnv4(torch.zeros(1, 4, 4, 2), torch.zeros(1, 5, 5, 16), 2, remove_center=True)


def test_importing_asks_for_no_card_and_no_compiler():
    """The released package does not import without a visible card, nor on cards newer than its table."""
    code = (
        "import torch\n"
        "torch.cuda.get_device_capability = torch.cuda.get_device_properties = None\n"
        "from internimage.ops import dcnv3, dcnv4, ms_deform_attn\n"
        "from internimage.layers import DCNv3, DCNv4, MSDeformAttn\n"
        "print(float(dcnv4(torch.ones(1, 2, 2, 1), torch.ones(1, 2, 2, 32)).sum()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == float(dcnv4(torch.ones(1, 2, 2, 1), torch.ones(1, 2, 2, 32)).sum())


def test_padding_stands_behind_the_last_group_and_is_not_read():
    image, packed = torch.randn(1, 3, 4, 10), torch.randn(1, 3, 4, 136)
    want = dcnv4(image, packed, groups=5)
    packed[..., 135:] = float("nan")
    assert torch.equal(dcnv4(image, packed, groups=5), want)


def test_raw_weights_of_attention_may_have_either_sign():
    value = torch.ones(1, 4, 1, 1)
    weights = torch.tensor([2.0, -3.0]).view(1, 1, 1, 1, 2)
    output = ms_deform_attn(value, [(2, 2)], torch.full((1, 1, 1, 1, 2, 2), 0.5), weights)
    assert output.item() == pytest.approx(-1.0)
