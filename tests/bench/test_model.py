"""Networks: what is replaced, what stops a run, what a row says, and where the time goes."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import nullcontext

import pytest
import torch

from internimage.bench import breakdown, counting, images, memory, model, network_memory, networks
from internimage.bench.gate import Disagreement
from internimage.bench.images import Size
from internimage.bench.labels import FREE, ON_GRID_SAMPLE, PEERS
from internimage.bench.network_runs import Setting
from internimage.bench.shapes import MapShape
from internimage.bench.work import FORWARD, flops
from internimage.layers import DCNv3, DCNv4
from internimage.ops import native

pytestmark = [
    pytest.mark.skipif(native.load_error() is not None, reason=str(native.load_error())),
    pytest.mark.usefixtures("small_networks"),
]

NAMES = ("internimage_t", "flash_internimage_t")
SIZE = Size(2, 32, 32, 2)


@pytest.fixture(params=NAMES)
def network(request):
    return networks.make(request.param, features_only=False)[0]


def test_the_operator_alone_is_replaced(network):
    image, layers = torch.randn(1, 3, 32, 32), networks.cores(network.module)
    assert layers == 4
    with torch.inference_mode():
        ours = network.module(image)
        with networks.operator(networks.on("grid_sample")) as made:
            torch.testing.assert_close(network.module(image), ours)
        assert len(made) == layers
        with networks.operator(networks.free):
            assert (network.module(image) - ours).abs().max() > 1e-3
        assert torch.equal(network.module(image), ours)


def test_variants_share_their_module():
    ours, on_grid_sample, free = networks.make("internimage_t", features_only=True)
    assert ours.module is on_grid_sample.module is free.module
    assert [ours.label, on_grid_sample.label] == ["internimage_t", f"internimage_t {ON_GRID_SAMPLE}"]
    assert free.variant == FREE and free.model == "internimage_t"


def test_sampling_is_scattered_in_dcnv3():
    module = networks.make("internimage_t", False)[0].module
    layer = next(m for m in module.modules() if isinstance(m, DCNv3))
    _, offset, _ = layer.sampling(torch.randn(1, 16, 16, 16))
    constant = offset.mean((0, 1, 2))
    assert 1 < constant.std() < 4
    assert 0.3 < (offset - constant).std() < 3


def test_sampling_is_scattered_in_dcnv4_with_masks_around_their_mean():
    module = networks.make("flash_internimage_t", False)[0].module
    layer = next(m for m in module.modules() if isinstance(m, DCNv4))
    packed = layer.offset_mask(torch.randn(1, 16, 16, 16))[..., :27]
    constant = packed[..., :18].mean((0, 1, 2))
    assert 1 < constant.std() < 4
    assert 0.3 < (packed[..., :18] - constant).std() < 3
    masks = packed[..., 18:]
    assert 0.05 < masks.mean() < 0.2 and 0.03 < masks.std() < 0.3 and masks.min() < 0


@pytest.mark.parametrize("side", [32, 320], ids=["float64 formula", "grid_sample"])
def test_a_wrong_operator_stops_before_timing(side, network, monkeypatch):
    image = torch.randn(1, 3, side, side)
    with torch.inference_mode():
        assert model.gate(network, image, Setting()) < 1e-5
        monkeypatch.setattr(networks, "on", lambda backend: networks.free)
        with pytest.raises(Disagreement, match=f"{network.label}, output 0: relative error"):
            model.gate(network, image, Setting())


@pytest.mark.parametrize("layer", [DCNv3, DCNv4])
def test_layers_that_no_longer_call_the_operator_are_noticed(layer, monkeypatch):
    network = networks.make(NAMES[layer is DCNv4], False)[0]
    monkeypatch.setattr(layer, "forward", lambda self, x, start=None: x if start is None else start)
    with torch.inference_mode(), pytest.raises(Disagreement, match="0 of 4 operators were replaced; nothing was timed"):
        model.gate(network, torch.randn(1, 3, 32, 32), Setting())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_a_run_holds_every_network(dtype, results):
    setting = Setting(dtype=dtype, peers=networks.chosen_peers("all")[:1])
    run = model.measure(NAMES, SIZE, setting)
    rows = {row["network"]: row for row in run["rows"]}
    expected = results["model"]["runs"][0]
    assert set(run) == set(expected) and set(run["rows"][0]) == set(expected["rows"][0])
    ours = [label for name in NAMES for label in (name, f"{name} {ON_GRID_SAMPLE}", f"{name} {FREE}")]
    assert list(rows) == [*ours, *setting.peers]
    assert (run["task"], run["batch"], run["size"], run["pairs"]) == ("classify", 2, [32, 32], 2)
    assert run["precision"] == {
        torch.float32: "float32", torch.bfloat16: "bfloat16 autocast", torch.float64: "weights in float64",
    }[dtype]  # fmt: skip
    assert set(run["errors"]) == set(NAMES)
    for label, row in rows.items():
        assert row["images_per_s"] == pytest.approx(2e3 / row["median_ms"])
        assert (row["over_own"] is None) == (label in (*NAMES, *setting.peers))
        assert row["released_images_per_s"] is None and row["peak_bytes"] > 0
        assert row["gflops"] == pytest.approx(1e3 * row["gflop"] / row["median_ms"])
    assert rows["internimage_t"]["gflop"] > rows[f"internimage_t {FREE}"]["gflop"]
    if setting.peers:
        assert run["baseline"] == "convnext_tiny" and rows["convnext_tiny"]["over_baseline"] == 1


def test_a_training_step_changes_the_weights_and_no_gate_is_skipped():
    setting = Setting(train=True, variants=(FREE,), pairs=1)
    run = model.measure(["flash_internimage_t"], SIZE, setting)
    assert run["task"] == "train" and run["errors"]["flash_internimage_t"] < 1e-4
    candidate = model.candidates_of(["flash_internimage_t"], SIZE, setting)[0]
    losses = [float(candidate.run()) for _ in range(2)]
    assert losses[0] != losses[1]


def test_a_recorded_network_is_replayed(monkeypatch):
    told = []

    class Graph:
        def replay(self):
            told.append("replay")

    class Stream:
        def __init__(self, device=None):
            pass

        def wait_stream(self, other):
            pass

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    for name in ("device", "stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nullcontext())
    run = model.measure(["internimage_t"], Size(1, 32, 32, 1), Setting(graphs=True, variants=()))
    recorded = run["rows"][1]
    assert recorded["network"] == "internimage_t graph" and told and recorded["peak_bytes"] is None
    assert recorded["released_images_per_s"] == 156


@pytest.mark.slow
def test_compiled_runs_stand_beside_eager_ones():
    run = model.measure(["internimage_t"], SIZE, Setting(compiled=True, variants=(FREE,), pairs=1))
    labels = ["internimage_t", "internimage_t compiled", f"internimage_t {FREE}"]
    assert [row["network"] for row in run["rows"]] == labels
    assert run["rows"][1]["variant"] == "compiled" and run["rows"][1]["over_own"] is None


def test_without_peers_there_is_no_ratio_over_a_baseline():
    run = model.measure(["internimage_t"], Size(1, 32, 32, 1, features=True), Setting())
    assert run["task"] == "features" and run["baseline"] is None
    assert all(row["over_baseline"] is None for row in run["rows"])


def test_gflop_of_a_linear_layer_and_of_the_operators():
    layer = torch.nn.Linear(8, 16)
    assert counting.gflop(networks.Network("a", layer), torch.zeros(4, 8)) == 2 * 4 * 8 * 16 / 1e9
    for name in NAMES:
        ours, free = networks.make(name, False, (FREE,))
        image = torch.randn(1, 3, 32, 32)
        operators = counting.gflop(ours, image) - counting.gflop(free, image)
        work = [MapShape(8 >> level, 8 >> level, 16 << level, 1 << level).work for level in range(4)]
        assert operators == pytest.approx(sum(flops(one, FORWARD) for one in work) / 1e9)


class TestWords:
    def test_sizes_are_sets_or_written_out(self):
        cpu = torch.device("cpu")
        assert [str(size) for size in images.chosen(["8x224", "2x64x96"], cpu, False)] == ["8x224x224", "2x64x96"]
        assert [size.features for size in images.chosen([], cpu, False)] == [False, False, True]
        assert images.chosen(["64x96"], cpu, False, features=True)[0].features
        assert len(images.chosen([], cpu, quick=True)) == 2

    def test_larger_images_get_fewer_pairs(self):
        small, large = images.chosen(["32x32", "16x800x800"], torch.device("cpu"), False)
        assert small.pairs > large.pairs >= 5

    @pytest.mark.parametrize("word", ["big", "224x", "0x224", "1x2x3x4"])
    def test_a_wrong_size_is_one_error(self, word):
        with pytest.raises(ValueError, match=f"--shapes '{word}' is no size of images; expected a set .224, .*HxW or"):
            images.chosen([word], torch.device("cpu"), False)

    def test_models_are_known_by_name(self):
        assert model.chosen_models([]) == NAMES
        with pytest.raises(ValueError, match="there is no model 'resnet50' to time; expected some of .*internimage_t"):
            model.chosen_models(["resnet50"])

    def test_peers_are_names_of_timm(self, monkeypatch):
        assert networks.chosen_peers("none") == ()
        monkeypatch.setattr(networks.importlib.util, "find_spec", lambda name: None)
        assert networks.chosen_peers(None) == networks.chosen_peers("all") == ()
        with pytest.raises(
            ValueError, match="--peers names resnet50, which need timm, not installed here: pip install"
        ):
            networks.chosen_peers("resnet50")
        monkeypatch.setattr(networks.importlib.util, "find_spec", lambda name: object())
        assert networks.chosen_peers(None) == PEERS

    def test_an_unknown_peer_is_found_before_anything_is_timed(self):
        pytest.importorskip("timm")
        assert networks.chosen_peers("resnet18, vit_tiny_patch16_224") == ("resnet18", "vit_tiny_patch16_224")
        with pytest.raises(ValueError, match="--peers 'nobody' is no model of timm; expected all, none, or names"):
            networks.chosen_peers("resnet18,nobody")


def test_an_unknown_model_of_timm_is_one_error(monkeypatch):
    timm = pytest.importorskip("timm")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="--peers 'no_such_net' is no model of timm"):
        networks.make_peer("no_such_net", False, (32, 32))
    assert timm


def test_a_peer_that_does_not_take_the_size_is_left_out(monkeypatch):
    def refuse(name, features_only, size):
        raise AssertionError("only 224")

    monkeypatch.setattr(networks, "make_peer", refuse)
    run = model.measure(["internimage_t"], Size(1, 32, 32, 1), Setting(peers=("vit",), variants=()))
    assert run["left_out"] == {"vit": "does not take 32x32 (only 224)"}


class TestBreakdown:
    def test_kinds_add_up_to_the_run_and_our_kernels_are_seen(self):
        (row,) = model.where_time_goes(["internimage_t"], SIZE, Setting())
        assert list(row["ms"]) == list(breakdown.KINDS) and row["network"] == "internimage_t"
        for kind in (breakdown.PRODUCTS, breakdown.OPERATOR, breakdown.CONVOLUTIONS, breakdown.POINTWISE):
            assert row["ms"][kind] > 0, kind

    def test_the_library_is_as_before_afterwards(self):
        before = native.library().internimage_fused
        with breakdown.named_kernels():
            assert native.library().internimage_fused is not before
        assert native.library().internimage_fused is before

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("aten::addmm", breakdown.PRODUCTS),
            ("internimage::deformable_forward", breakdown.OPERATOR),
            ("internimage::depthwise", breakdown.CONVOLUTIONS),
            ("internimage::fused", breakdown.POINTWISE),
            ("aten::native_layer_norm", breakdown.POINTWISE),
            ("aten::_to_copy", breakdown.MOVES),
            ("aten::empty", breakdown.REST),
        ],
    )
    def test_operators_have_their_kind(self, name, kind):
        assert breakdown.kind_of(name) == kind


class TestMemory:
    def test_peak_allocation_counts_what_is_held_at_once(self):
        def run():
            first = torch.empty(1000, dtype=torch.uint8)
            del first
            return torch.empty(2000, dtype=torch.uint8), torch.empty(500, dtype=torch.uint8)

        assert memory.peak_allocation(run) == 2500

    @pytest.mark.skipif(sys.platform != "linux", reason="reads the high-water mark of the process that Linux keeps")
    def test_peak_resident_sees_memory_that_is_given_back(self):
        peak = memory.peak_resident(lambda: torch.ones(16 * 2**20).sum())
        if peak is None:
            pytest.skip("this system does not let a process reset its high-water mark")
        assert 60 * 2**20 < peak < 100 * 2**20

    @pytest.mark.parametrize("label", ["internimage_t", f"flash_internimage_t {FREE}"])
    def test_both_peaks_of_a_network(self, label):
        peaks = network_memory.network_peaks(label, (64, 64))
        assert set(peaks) == {"resident_bytes", "allocated_bytes"} and peaks["allocated_bytes"] > 0

    def test_a_card_tells_its_own_peak(self, monkeypatch):
        for name, answer in (("memory_allocated", 100), ("max_memory_allocated", 350)):
            monkeypatch.setattr(torch.cuda, name, lambda device, answer=answer: answer)
        for name in ("synchronize", "reset_peak_memory_stats"):
            monkeypatch.setattr(torch.cuda, name, lambda device: None)
        assert memory.peak_allocation(lambda: None, torch.device("cuda")) == 250

    def test_every_network_is_weighed(self, monkeypatch):
        monkeypatch.setattr(model, "peaks", lambda label, size: {"resident_bytes": 1, "allocated_bytes": 1})
        setting = dataclasses.replace(Setting(), peers=("resnet50",), variants=(FREE,))
        rows = model.weigh(["internimage_t"], SIZE, setting)
        assert [row["network"] for row in rows] == ["internimage_t", f"internimage_t {FREE}", "resnet50"]

    def test_a_failing_measurement_says_why(self):
        with pytest.raises(OSError, match="measuring the memory of nonsense failed"):
            model.peaks("nonsense", (32, 32))
