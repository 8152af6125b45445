"""The networks' benchmark: what is replaced, what stops it, and what it says."""

from __future__ import annotations

import sys

import pytest
import torch

from internimage.bench import memory, model
from internimage.bench.gate import Disagreement
from internimage.layers import DCNv3
from internimage.ops import native

pytestmark = pytest.mark.skipif(native.load_error() is not None, reason=str(native.load_error()))

TASK = model.Task("features", (32, 32), True, 2, over_convnext=1.3, over_grid_sample=1.5, memory=0.5)


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    """InternImage and ConvNeXt of a few thousand parameters under the names of the real ones."""
    make = model.create_model
    monkeypatch.setattr(
        model,
        "create_model",
        lambda name, **kw: make("internimage_femto", in_chans=3, channels=16, groups=(1, 2, 4, 8), **kw),
    )
    if "convnext_tiny" in model.forms():
        import timm

        make_timm = timm.create_model
        monkeypatch.setattr(timm, "create_model", lambda name, **kw: make_timm("convnext_atto", **kw))


@pytest.fixture
def network():
    return model.make_network(model.OURS, features_only=False).module


def test_the_operator_alone_is_replaced(network):
    image, layers = torch.randn(1, 3, 32, 32), [m for m in network.modules() if isinstance(m, DCNv3)]
    with torch.inference_mode():
        ours = network(image)
        with model.operator(model.on("grid_sample")) as made:
            torch.testing.assert_close(network(image), ours)
        assert len(made) == len(layers)
        with model.operator(model.free):
            assert (network(image) - ours).abs().max() > 1e-3
        assert torch.equal(network(image), ours)


def test_all_forms_have_the_same_weights():
    ours, free = (model.make_network(form, features_only=True).module.state_dict() for form in (model.OURS, model.FREE))
    assert all(torch.equal(ours[name], free[name]) for name in ours)


def test_sampling_is_scattered(network):
    layer = next(m for m in network.modules() if isinstance(m, DCNv3))
    _, offset, _ = layer.sampling(torch.randn(1, 16, 16, 16))
    constant = offset.mean((0, 1, 2))
    assert 1 < constant.std() < 4
    assert 0.3 < (offset - constant).std() < 3


@pytest.mark.parametrize("exact", [True, False])
def test_a_wrong_operator_stops_before_timing(exact, network, monkeypatch):
    image = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        assert model.gate(network, image, exact) < 1e-5
        with pytest.raises(Disagreement, match="output 0: relative error"):
            monkeypatch.setattr(model, "on", lambda backend: model.free)
            model.gate(network, image, exact)


def test_layers_that_no_longer_call_the_operator_are_noticed(network, monkeypatch):
    monkeypatch.setattr(DCNv3, "forward", lambda self, x, start=None: x)
    with torch.inference_mode(), pytest.raises(Disagreement, match=r"0 of \d+ operators were replaced"):
        model.gate(network, torch.randn(1, 3, 32, 32), exact=False)


def test_results_say_what_is_wanted_and_what_a_free_operator_would_give(monkeypatch):
    peaks = {model.OURS: 30, model.ON_GRID_SAMPLE: 100, model.FREE: 25, model.CONVNEXT: 50}
    weighed = {form: {"resident_bytes": size, "allocated_bytes": 1} for form, size in peaks.items()}
    monkeypatch.setattr(model, "peaks", lambda form, task: weighed[form])
    results = model.run(tasks=[TASK])
    rows = {row["form"]: row for row in results["runs"][0]["rows"]}
    assert list(rows) == results["forms"] == model.forms()
    assert rows[model.OURS]["over_ours"] == 1
    found = {target["what"].partition(": ")[2]: target for target in results["targets"]}
    assert found["peak memory over that on grid_sample"] == {
        "what": "features 32x32: peak memory over that on grid_sample",
        "sense": "<=",
        "wanted": 0.5,
        "got": 0.3,
        "free_operator": 0.25,
        "met": True,
    }
    slower = found["time on grid_sample over ours"]
    assert slower["met"] == (slower["got"] >= 1.5) and slower["got"] == rows[model.ON_GRID_SAMPLE]["over_ours"]
    assert ("time over convnext_tiny" in found) == (model.CONVNEXT in rows)


def test_without_timm_its_rows_are_left_out(monkeypatch):
    monkeypatch.setattr(model.importlib.util, "find_spec", lambda name: None)
    run = model.measure(TASK)
    assert [row["form"] for row in run["rows"]] == [model.OURS, model.ON_GRID_SAMPLE, model.FREE]
    assert all(row["over_convnext"] is None for row in run["rows"])
    rows = {"runs": [run], "memory": []}
    only_time = model.Task("features", (32, 32), True, 2, over_convnext=1.3, over_grid_sample=1.5)
    assert [target["sense"] for target in model.targets(only_time, rows)] == [">="]


def test_peak_allocation_counts_what_is_held_at_once():
    def run():
        first = torch.empty(1000, dtype=torch.uint8)
        del first
        return torch.empty(2000, dtype=torch.uint8), torch.empty(500, dtype=torch.uint8)

    assert memory.peak_allocation(run) == 2500


@pytest.mark.skipif(sys.platform != "linux", reason="reads the high-water mark of the process that Linux keeps")
def test_peak_resident_sees_memory_that_is_given_back():
    peak = memory.peak_resident(lambda: torch.ones(16 * 2**20).sum())
    if peak is None:
        pytest.skip("this system does not let a process reset its high-water mark")
    assert 60 * 2**20 < peak < 100 * 2**20


def test_both_peaks_of_a_network():
    peaks = memory.network_peaks(model.OURS, (64, 64))
    assert set(peaks) == {"resident_bytes", "allocated_bytes"} and peaks["allocated_bytes"] > 0


def test_a_failing_measurement_says_why():
    with pytest.raises(OSError, match="measuring the memory of nonsense failed: .*KeyError"):
        model.peaks("nonsense", TASK)
