"""How launches are kept and looked up, by tensors on the CPU and a kernel that only writes down its calls."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from internimage.ops import triton_launch, tuning
from internimage.ops.dcnv3 import gpu
from internimage.ops.geometry import Geometry
from internimage.ops.layout import lanes_of, reach_of
from internimage.ops.ms_deform_attn import gpu as attention
from internimage.ops.triton_launch import Kernel, Launch, Problem
from internimage.ops.triton_settings import Setting, candidates, pieces_of, vector_of

from .attention_cases import AttentionCase
from .cases import Case


class Compiled:
    """Stands for a compiled kernel."""

    def __init__(self):
        self.launches = []

    def __getitem__(self, grid):
        return lambda *arguments: self.launches.append((grid, arguments))


@pytest.fixture
def compiled(monkeypatch):
    """What is "compiled" by the calls of a test, in order."""
    made = []

    def first_launch(problem):
        made.append(Compiled())
        return Launch(made[-1], 64, ("constants",))

    monkeypatch.setattr(triton_launch, "_first_launch", first_launch)
    monkeypatch.setattr(triton_launch, "_launches", {})
    return made


GEOMETRY = Geometry(groups=2)


def call(size=(2, 5, 6), depth=8, geometry=GEOMETRY, dtype=torch.float16, softmax=False, change=lambda tensor: tensor):
    inputs = Case("any", size, depth, geometry).make(dtype).map(change)
    return gpu.forward(inputs.input, inputs.offset, inputs.mask, geometry, softmax)


def test_the_second_call_of_a_class_launches_what_the_first_compiled(compiled):
    call(), call(size=(2, 6, 5)), call(size=(3, 5, 4))
    assert len(compiled) == 1 and len(compiled[0].launches) == 2
    (grid, arguments), _ = compiled[0].launches
    assert grid == (4, 1, 1)  # two images of two groups of 30 rows, in programs of 64
    tensors, numbers = arguments[:4], arguments[4:]
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors)
    assert numbers == (1, 1, 5, 6, 5, 6, 5, "constants")


DIFFERENT = {
    "dtype": {"dtype": torch.bfloat16},
    "softmax": {"softmax": True},
    "geometry": {"geometry": Geometry(groups=2, offset_scale=2.0)},
    "depth": {"depth": 4},
    "many more rows": {"size": (40, 20, 20)},
    "addresses": {"change": lambda tensor: tensor.new_empty(tensor.numel() + 1)[1:].view(tensor.shape)},
    "distances": {"change": lambda tensor: torch.cat((tensor, tensor), 3)[..., : tensor.shape[3]]},
}


def test_locations_of_another_dtype_compile_anew(compiled):
    """Attention alone takes float32 locations beside half types."""
    inputs = AttentionCase("any").make(torch.float16)
    finer = replace(inputs, locations=inputs.locations.float())
    for made in (inputs, finer, inputs, finer):
        values, locations, weights = made.value.flatten(2), made.locations.flatten(3), made.weights.flatten(3)
        attention.forward(values, locations, weights, made.sizes)
        attention.backward(made.grad_output, values, locations, weights, made.sizes)
    assert len(compiled) == 4 and [len(kernel.launches) for kernel in compiled] == [1] * 4


@pytest.mark.parametrize("difference", DIFFERENT.values(), ids=DIFFERENT)
def test_another_class_compiles_anew(compiled, difference):
    call(), call(**difference), call(), call(**difference)
    assert len(compiled) == 2
    assert [len(kernel.launches) for kernel in compiled] == [1, 1]


def test_other_settings_apply_after_they_were_measured(compiled):
    call()
    with tuning.autotune():
        call()
    call()
    assert len(compiled) == 3


def test_long_addresses_are_never_kept(compiled, monkeypatch):
    monkeypatch.setattr(triton_launch, "INT32_ADDRESSES", 0)
    call(), call()
    assert len(compiled) == 2 and not triton_launch._launches


def test_launches_on_the_card_of_the_tensors(monkeypatch):
    """On a machine with two cards, made up."""
    entered = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device", lambda device: entered.append(device) or pytest.MonkeyPatch.context())
    with triton_launch.on_device(torch.device("cuda", 0)):
        assert not entered
    with triton_launch.on_device(torch.device("cuda", 1)):
        assert entered == [torch.device("cuda", 1)]


def test_a_class_is_named_by_all_that_its_setting_depends_on():
    inputs = Case("any", (2, 5, 6), 8, GEOMETRY).make(torch.float16)
    lanes = lanes_of(inputs.offset, 2), lanes_of(inputs.mask, 2)
    name = triton_launch.class_of(gpu.problem_of(inputs.input, inputs.grad_output, GEOMETRY, True, *lanes))
    for part in (
        "dcnv3 forward_kernel",
        "triton" if torch.cuda.is_available() else "no card",
        "float16 depth 8 taps 9",
    ):
        assert part in name
    assert name.endswith("softmax rows 4**3")


LAYOUTS = {
    "packed": lambda tensor: tensor,
    "one pixel a row": lambda tensor: tensor[:, :, :1],
    "channel slice": lambda tensor: tensor[..., :12],
    "every other column": lambda tensor: tensor[:, :, ::2],
    "part of a map": lambda tensor: tensor[:, 1:3],
    "transposed": lambda tensor: tensor.transpose(1, 2),
    "channels first": lambda tensor: tensor.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
    "expanded": lambda tensor: tensor[:1, :1, :1].expand(2, 3, 4, 24),
    "every other channel": lambda tensor: tensor[..., ::2],
    "groups apart": lambda tensor: tensor.unflatten(-1, (2, 12))[..., :6],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("size", [(2, 4, 6), (1, 4, 1), (3, 1, 2)], ids=str)
def test_lanes_hold_the_numbers_of_every_row_and_group(layout, size):
    tensor = layout(torch.arange(1.0, 1 + 24 * size[0] * size[1] * size[2]).view(*size, 24))
    want = tensor.contiguous().view(tensor.shape[:3].numel(), 2, tensor.shape[3:].numel() // 2)
    lanes = lanes_of(tensor, 2)
    got = lanes.tensor.as_strided(want.shape, (lanes.row, lanes.group, 1), lanes.tensor.storage_offset())
    assert torch.equal(got, want)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_no_number_is_further_away_than_the_reach(layout):
    tensor = layout(torch.zeros(1, 4, 6, 24))[:1]  # of one image
    last = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    lanes = lanes_of(tensor, 2)
    needed = last if lanes.tensor.data_ptr() == tensor.data_ptr() else tensor.numel()
    assert needed <= reach_of([lanes], tensor.shape[1:3].numel(), 2, 1)


def test_a_setting_fits_every_width():
    for depth in (1, 2, 5, 8, 16, 17, 32, 40, 64, 67, 256, 300, 1025, 5000):
        for size in (2, 4, 8):
            for forward in (True, False):
                vector = vector_of(depth, size)
                for setting in candidates(depth, vector, size, 10_000, forward):
                    pieces = pieces_of(depth, vector, setting)
                    assert pieces.pieces * pieces.width >= depth and pieces.width % vector == 0
                    assert setting.rows * setting.lanes <= max(32 * setting.warps, setting.lanes)
                    assert depth > 1024 or pieces.pieces * vector <= 32  # numbers of a row that a thread holds


def test_few_rows_are_spread_over_more_programs():
    few, many = (candidates(16, 8, 2, rows, forward=True)[0] for rows in (1000, 10**6))
    assert few.rows < many.rows


def test_one_channel_is_added_at_a_time_before_sm_90(monkeypatch):
    inputs = Case("any", (1, 3, 4), 16, GEOMETRY).make(torch.float16)
    kernel = Kernel(".dcnv3.triton_kernels", "backward_kernel")
    problem = Problem(kernel, (), (inputs.input,), (), 1, 1, 12, 2, 16, 9, 100, dict)
    found = []
    for capability in (80, 90):
        monkeypatch.setattr(triton_launch, "capability", lambda capability=capability: capability)
        found.append(triton_launch._vector_of(problem))
    assert found == [1, 4]


def test_settings_are_measured_by_launching_them(monkeypatch, tmp_path):
    """With a kernel that is compiled by name only, and times that are made up."""
    monkeypatch.setenv("INTERNIMAGE_CACHE", str(tmp_path))
    tuning._settings.cache_clear()
    monkeypatch.setattr(triton_launch, "_can_measure", lambda first: True)
    monkeypatch.setattr(triton_launch, "capability", lambda: 90)
    tried, launched = [], []
    monkeypatch.setattr(triton_launch, "_seconds", lambda problem: lambda setting: tried.append(setting) or setting[1])
    monkeypatch.setattr(
        triton_launch, "_launch_with", lambda problem, setting: launched.append(setting) or Launch(None, 1, ())
    )
    with tuning.autotune():
        call(depth=16)
    assert len(tried) > 3 and launched == [min(tried, key=lambda setting: setting[1])]
    assert isinstance(launched[0], Setting) and tuning.path().is_file()
    tuning._settings.cache_clear()
