"""What is wanted is compared with what came, in the right place and the right direction."""

from __future__ import annotations

import pytest

from internimage.bench import catalog, targets
from internimage.bench.operators import OURS


def test_a_target_is_met_from_its_own_side():
    assert targets.target("a", "<=", 1.2, 1.2)["met"] and not targets.target("a", "<=", 1.2, 1.21)["met"]
    assert targets.target("a", ">=", 8, 8)["met"] and not targets.target("a", ">=", 8, 7.9)["met"]


def test_over_the_fastest_plain_form(results):
    row = results["op"][0]
    assert targets.over_plain(row, "min_ms") == 9.0
    row["forms"]["gs4"] = {**row["forms"]["gs"], "min_ms": 4.0}
    assert targets.over_plain(row, "min_ms") == 4.0
    del row["forms"]["gs"], row["forms"]["gs4"]
    assert targets.over_plain(row, "min_ms") is None


def test_operators_on_the_cpu(results):
    found = {row["what"]: row for row in targets.of_operators(results["op"][:2], "cpu")}
    forward = found["dcnv4 56x56x128/4 forward: fastest PyTorch form over ours"]
    assert (forward["wanted"], forward["aim"], forward["got"], forward["met"]) == (8.0, 12.0, 9.0, True)
    both = found["dcnv4 56x56x128/4 forward+backward: fastest PyTorch form over ours"]
    assert (both["wanted"], both["aim"]) == (5.0, 8.0)
    half = found["dcnv4 forward: float32 over bfloat16, least (56x56x128/4)"]
    assert half["got"] == 2.0 and half["met"]


def test_the_shapes_with_a_target_are_run_by_default():
    for operator in catalog.OPERATORS.values():
        usual = {str(shape) for word in operator.usual["cpu"] for shape in operator.sets[word]}
        assert operator.wanted and all(set(wanted.shapes) <= usual for wanted in operator.wanted)


def test_other_shapes_and_dtypes_have_no_target(results):
    row = results["op"][0]
    assert not targets.of_operators([{**row, "shape": "5x5x128/4", "variants": {}}], "cpu")
    assert not targets.of_operators([{**row, "dtype": "bfloat16", "variants": {}}], "cpu")


def test_operators_on_a_card_are_over_each_peer_at_its_nearest(results):
    row = {**results["op"][0], "dtype": "float16"}
    row["forms"]["deformops"] = {**row["forms"][OURS], "median_ms": 6.0}
    near = {**row, "shape": "near", "forms": {**row["forms"], "deformops": {"median_ms": 1.0}}}
    found = {target["what"]: target for target in targets.of_operators([row, near], "cuda", 10.0)}
    peer = found["dcnv4 float16 forward: deformops over ours, least (near)"]
    assert peer["got"] == 0.5 and not peer["met"]
    share = found["dcnv4 float16 56x56x128/4 forward: share of the copy bandwidth"]
    assert share["got"] == 0.5 and share["met"]


def test_host_time_is_above_an_empty_launch():
    (found,) = targets.of_host_time({"card": "A", "empty_launch": 5.0, "above_empty": {"dcnv4": 31.0}})
    assert found["got"] == 31.0 and not found["met"] and targets.of_host_time(None) == []


def test_networks_on_the_cpu(results):
    model = results["model"]
    found = {row["what"]: row for row in targets.of_models(model["runs"], model["memory"], "cpu")}
    over = found["classify 1x224x224 float32: internimage_t over convnext_tiny"]
    assert (over["wanted"], over["got"], over["free_operator"], over["met"]) == (1.20, 1.15, 1.05, True)
    faster = found["classify 1x224x224 float32: internimage_t on grid_sample over ours"]
    assert faster["got"] == 1.9 and faster["free_operator"] == pytest.approx(1.9 / 0.9)


def test_memory_is_over_that_on_grid_sample():
    sizes = {"internimage_t": 30, "internimage_t on grid_sample": 100, "internimage_t free operator": 25}
    rows = [{"network": name, "resident_bytes": size, "allocated_bytes": 1} for name, size in sizes.items()]
    (found,) = targets.of_models([], rows, "cpu")
    assert (found["got"], found["free_operator"], found["met"]) == (0.3, 0.25, True)


def test_networks_on_a_card_are_compiled(results):
    (run,) = results["model"]["runs"]
    rows = [{**row, "network": f"{row['network']} compiled"} for row in run["rows"]]
    run |= {"batch": 128, "dtype": "bfloat16", "rows": rows, "baseline": "swin_tiny_patch4_window7_224 compiled"}
    (found,) = targets.of_models([run], [], "cuda")
    assert found["what"].endswith("internimage_t compiled over swin_tiny_patch4_window7_224 compiled")
    assert found["wanted"] == pytest.approx(1 / 0.9)


def test_nothing_is_wanted_of_other_sizes_or_over_other_networks(results):
    (run,) = results["model"]["runs"]
    assert any(" over convnext_tiny" in row["what"] for row in targets.of_models([run], [], "cpu"))
    assert targets.of_models([{**run, "size": [64, 64]}], [], "cpu") == []
    over = targets.of_models([{**run, "baseline": "resnet18"}], [], "cpu")
    assert not any("resnet18" in row["what"] for row in over)
