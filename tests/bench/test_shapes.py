"""Shapes: how they are written, what they stand for, and how much work they are."""

from __future__ import annotations

import itertools

import pytest

from internimage.bench import catalog, shapes, work
from internimage.bench.shapes import AttentionShape, MapShape
from internimage.bench.work import BACKWARD, BOTH, FORWARD


@pytest.mark.parametrize("text", ["56x56x128/4", "64x56x56x128/4", "7x9x32/32"])
def test_a_map_is_read_as_it_is_written(text):
    assert str(shapes.parse_map(text)) == text


@pytest.mark.parametrize("text", ["800x1216x256/8", "2x800x1216x256/8@900"])
def test_an_image_to_attend_to_is_read_as_it_is_written(text):
    assert str(shapes.parse_attention(text)) == text


@pytest.mark.parametrize("text", ["", "56x56x128", "56x56x128/3", "0x56x128/4", "56x56x128/4@9", "-1x5x4/2", "axbxc/d"])
def test_what_is_no_map_is_refused(text):
    assert shapes.parse_map(text) is None


def test_levels_and_positions_of_a_detector():
    shape = AttentionShape(800, 1216, 256, 8)
    assert shape.levels == ((100, 152), (50, 76), (25, 38), (13, 19))
    assert shape.positions == shape.looks == 15200 + 3800 + 950 + 247 == 20197
    assert AttentionShape(800, 1216, 256, 8, queries=900).looks == 900


def test_words_name_sets_and_shapes_each_once():
    known = catalog.OPERATORS["dcnv4"]
    chosen = shapes.choose(["224", "56x56x128/4", "5x6x8/2"], known.name, known.sets, known.parse, known.notation)
    assert [str(shape) for shape in chosen] == [
        "56x56x128/4", "28x28x256/8", "14x14x512/16", "7x7x1024/32", "5x6x8/2",
    ]  # fmt: skip


def test_a_wrong_word_is_one_error_that_says_what_fits():
    known = catalog.OPERATORS["ms_deform_attn"]
    with pytest.raises(ValueError, match=r"--shapes '224' is no shape of ms_deform_attn; .*\(detr, .*@Q for Q queries"):
        shapes.choose(["detr", "224"], known.name, known.sets, known.parse, known.notation)


def test_work_of_a_shape_small_enough_to_count():
    counted = MapShape(2, 3, 8, 2, batch=2).work
    samples = sum(1 for _ in itertools.product(range(2), range(2), range(3), range(2), range(9)))
    assert counted.samples == samples == 216 and counted.depth == 4
    assert counted.outputs == 2 * 2 * 3 * 8 and counted.arguments == counted.outputs + 3 * samples
    assert work.flops(counted, FORWARD) == 216 * (4 * 4 * 2 + 16)
    assert work.flops(counted, BACKWARD) == 216 * (4 * 4 * 4 + 40)
    assert work.corner_bytes(counted, BACKWARD, itemsize=2) == 216 * 4 * 4 * 2 * 3
    for count in (work.flops, work.tensor_bytes, work.corner_bytes):
        assert count(counted, BOTH) == count(counted, FORWARD) + count(counted, BACKWARD)


@pytest.mark.parametrize(
    ("name", "text"), [("dcnv3", "2x5x6x8/2"), ("dcnv4", "5x6x16/2"), ("ms_deform_attn", "64x64x16/2@7")]
)
def test_tensor_bytes_are_those_of_the_tensors(name, text):
    known = catalog.OPERATORS[name]
    shape = known.parse(text)
    inputs = known.make(shape)
    packing = 0
    if name == "dcnv4":
        packing = inputs.tensors["offset_mask"][..., 3 * 2 * 9 :].nbytes  # what rounds up to a multiple of 8
    arguments = sum(tensor.nbytes for tensor in inputs.tensors.values()) - packing
    assert work.tensor_bytes(shape.work, FORWARD) == arguments + inputs.grad_output.nbytes
    assert work.tensor_bytes(shape.work, BACKWARD) == 2 * arguments + inputs.grad_output.nbytes
