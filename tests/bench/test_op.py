"""The operator's benchmark: the forms agree, a wrong one stops it, and its formulas count what they say."""

from __future__ import annotations

import itertools

import pytest
import torch

from internimage.bench import forms, op, work
from internimage.bench.gate import Disagreement
from internimage.bench.work import BACKWARD, BOTH, FORWARD, Shape
from internimage.ops import native

SHAPE = Shape(5, 6, 8, 2)
needs_kernel = pytest.mark.skipif(native.load_error() is not None, reason=str(native.load_error()))


@pytest.fixture
def inputs():
    return op.make_inputs(SHAPE)


@pytest.mark.parametrize("name", [name for name in forms.FORMS if name != forms.OURS])
def test_every_form_is_the_same_function(name, inputs):
    assert op.check(forms.FORMS[name], inputs, op.exact(inputs), name) < 1e-5


def test_offsets_keep_off_grid_lines(inputs):
    fraction = inputs.offset - inputs.offset.floor()
    assert fraction.min() > op.OFF_GRID_LINES - 1e-5 and fraction.max() < 1 - op.OFF_GRID_LINES + 1e-5
    assert 1 < inputs.offset.std() < 3


@needs_kernel
def test_a_row_holds_every_form_and_variant():
    rows = op.measure(SHAPE, seconds=0.0)
    assert [row["direction"] for row in rows] == [FORWARD, BOTH]
    for row in rows:
        assert list(row["ms"]) == list(forms.FORMS)
        assert set(row["variant_ms"]) == {"bfloat16", "float16", "float64", *op.available_instruction_sets()[1:]}
        assert all(time > 0 for time in (*row["ms"].values(), *row["variant_ms"].values()))
        assert row["ratio"] == min(row["ms"]["gs"], row["ms"]["gs4"]) / row["ms"]["cpu"]
        assert row["extra_bytes"]["cpu"] == 0 < row["extra_bytes"]["gs4"]


def _shifted(*args):
    return forms.gs(*args) + 1e-2


def _wrong_gradient(input, offset, mask, groups):
    return forms.gs(input, offset.detach() + 0 * offset, mask, groups)


@needs_kernel
@pytest.mark.parametrize(("wrong", "what"), [(_shifted, "output"), (_wrong_gradient, "gradient of offset")])
def test_nothing_is_timed_when_a_form_is_wrong(wrong, what, monkeypatch):
    monkeypatch.setitem(forms.FORMS, "gs", wrong)
    monkeypatch.setattr(op, "best_times", lambda *_: pytest.fail("timed"))
    with pytest.raises(Disagreement, match=f"gs at 5x6x8 G=2, {what}: relative error .* nothing was timed"):
        op.measure(SHAPE, seconds=0.0)


@needs_kernel
def test_a_form_that_gives_nan_is_refused(monkeypatch):
    monkeypatch.setitem(forms.FORMS, forms.OURS, lambda *args: forms.gs(*args) * float("nan"))
    with pytest.raises(Disagreement, match="cpu at"):
        op.measure(SHAPE, seconds=0.0)


@needs_kernel
def test_the_instruction_set_is_restored_also_after_an_error():
    best = native.instruction_set()
    with pytest.raises(KeyError), op.instruction_set("baseline"):
        assert native.instruction_set() == "baseline"
        raise KeyError
    assert native.instruction_set() == best
    with pytest.raises(ValueError, match="does not run sse9; it has .*baseline"), op.instruction_set("sse9"):
        pass


def test_work_of_a_shape_small_enough_to_count():
    shape = Shape(2, 3, 8, 2)
    samples = sum(1 for _ in itertools.product(range(2), range(3), range(2), range(9)))
    assert shape.samples == samples == 108
    assert work.flops(shape, FORWARD) == 108 * (4 * 4 * 2 + 16)
    assert work.flops(shape, BACKWARD) == 108 * (4 * 4 * 4 + 40)
    assert work.corner_bytes(shape, FORWARD) == 108 * 4 * 4 * 4
    assert work.corner_bytes(shape, BACKWARD, itemsize=2) == 108 * 4 * 4 * 2 * 3
    for count in (work.flops, work.tensor_bytes, work.corner_bytes):
        assert count(shape, BOTH) == count(shape, FORWARD) + count(shape, BACKWARD)


def test_tensor_bytes_are_those_of_the_tensors(inputs):
    arguments = inputs.input.nbytes + inputs.offset.nbytes + inputs.mask.nbytes
    output = inputs.grad_output.nbytes
    assert work.tensor_bytes(SHAPE, FORWARD) == arguments + output
    assert work.tensor_bytes(SHAPE, BACKWARD) == output + 2 * arguments
    assert work.tensor_bytes(SHAPE, FORWARD, itemsize=2) == (arguments + output) // 2


def test_speeds_are_work_over_time():
    ms = {"cpu": 2.0, "gs": 30.0, "gs4": 20.0, "reference": 90.0, "deform_conv2d": 50.0}
    speeds = op.speeds(SHAPE, FORWARD, ms)
    assert (speeds["ratio"], speeds["ratio_to_torchvision"], speeds["ratio_to_nearest"]) == (10, 25, 10)
    assert speeds["gflops"] == pytest.approx(work.flops(SHAPE, FORWARD) / 2e-3 / 1e9)
    assert speeds["gbytes_per_s"] == pytest.approx(work.tensor_bytes(SHAPE, FORWARD) / 2e-3 / 1e9)


def test_wanted_ratios_belong_to_the_two_large_maps():
    assert [str(shape) for shape in op.WANTED_SHAPES] == ["56x56x64 G=4", "200x304x64 G=4"]
    assert torch.float64 in op.OTHER_DTYPES and len(op.SHAPES) == 8
