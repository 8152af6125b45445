"""The stages on a card, driven here on the CPU with tiny shapes: what they keep, skip, retry and refuse."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch

from internimage.bench import images, machine, model, networks, peers, results, stage
from internimage.bench.compare import HERE
from internimage.bench.shapes import AttentionShape, MapShape
from internimage.bench.stage import Item
from internimage.ops import native

CPU = torch.device("cpu")
CEILINGS = machine.Ceilings("float16", 100.0, 10.0, 80.0)
needs_kernel = pytest.mark.skipif(native.load_error() is not None, reason=str(native.load_error()))


def row(name):
    return {"ceilings": [{"dtype": name, "gflops": 1.0, "memory_gbytes_per_s": 1.0, "l2_gbytes_per_s": 1.0}]}


def items(*names, seconds=1.0):
    return [Item(name, lambda name=name: row(name), seconds) for name in names]


def go(what, folder, **more):
    said = []
    status = stage.run("op", what, folder, CPU, say=said.append, clock=more.pop("clock", lambda: 0.0), **more)
    return status, said, json.loads((folder / "gpu-bench-op.json").read_text())


def test_every_finished_piece_is_written_with_tables(tmp_path):
    seen = []

    def second():
        seen.append(results.read(tmp_path / "gpu-bench-op.json")["items"])
        return row("b")

    status, said, found = go([*items("a"), Item("b", second, 1)], tmp_path)
    assert status == 0 and list(seen[0]) == ["a"]
    assert [c["dtype"] for c in found["ceilings"]] == ["a", "b"]
    assert said[-1].startswith("2 of 2 pieces done, 0 failed, 0 left for the next call")
    assert (tmp_path / "gpu-bench-op.md").read_text().startswith("- ")


def test_the_next_call_goes_on_behind_what_is_finished(tmp_path):
    go(items("a"), tmp_path)
    status, said, found = go([Item("a", lambda: pytest.fail("again"), 1), *items("b")], tmp_path)
    assert status == 0 and "goes on with" in said[0] and list(found["items"]) == ["a", "b"]


def test_a_piece_that_fails_does_not_stop_the_others_and_is_tried_again(tmp_path):
    def fail():
        raise RuntimeError("out of memory\nmore")

    status, said, found = go([Item("a", fail, 1), *items("b")], tmp_path)
    assert status == 1 and found["items"]["a"]["failed"] == "RuntimeError: out of memory"
    assert any("failed: RuntimeError" in line for line in said) and found["items"]["b"]["failed"] is None
    status, _, found = go(items("a", "b"), tmp_path)
    assert status == 0 and [c["dtype"] for c in found["ceilings"]] == ["b", "a"]


def test_nothing_is_begun_that_would_end_too_late(tmp_path):
    times = iter([100.0] * 4 + [480.0] * 20)
    status, said, found = go(items("a", "b", seconds=60), tmp_path, clock=lambda: next(times))
    assert status == 0 and list(found["items"]) == ["a"]
    assert "no time for b: run the same command again" in said
    assert "1 left for the next call" in said[-1]


def test_a_piece_that_hangs_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "CUT", 1)
    status, _, found = go([Item("a", lambda: time.sleep(30), 1)], tmp_path)
    assert status == 1 and found["items"]["a"]["failed"].startswith("TimeoutError: stopped after 1 s")


@pytest.mark.parametrize("change", ["source", "card", "torch"])
def test_results_of_other_code_or_another_card_are_kept_but_not_used(change, tmp_path):
    go(items("a"), tmp_path)
    path = tmp_path / "gpu-bench-op.json"
    earlier = json.loads(path.read_text())
    if change == "source":
        earlier["source"] = "0123456789ab"
    elif change == "card":
        earlier["machine"]["device"] = {"name": "NVIDIA A100"}
    else:
        earlier["versions"]["torch"] = "2.0.0"
    path.write_text(json.dumps(earlier))
    _, said, found = go(items("b"), tmp_path)
    assert list(found["items"]) == ["b"] and "measured anew" in said[0]
    assert json.loads((tmp_path / f"gpu-bench-op-{earlier['source']}.json").read_text()) == earlier


@needs_kernel
def test_the_operators_stage_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "CLASSIFIER", (MapShape(5, 6, 16, 2, 2),))
    monkeypatch.setattr(stage, "DETECTOR", (MapShape(7, 5, 16, 2),))
    monkeypatch.setattr(stage, "ATTENTION", (AttentionShape(64, 64, 16, 2, 5),))
    monkeypatch.setattr(machine, "measure_ceilings", lambda *_: CEILINGS)
    monkeypatch.setattr(peers, "missing", lambda name: "not installed")
    monkeypatch.setattr(stage, "_host_time", lambda: {"host_time": {"us": 1.0}})
    plan = list(stage.operator_items(CPU, seconds=0.0))
    names = [item.name for item in plan]
    assert names[:5] == [
        "ceilings float16",
        "ceilings bfloat16",
        "ceilings float32",
        "host time",
        "dcnv4 2x5x6x16/2 float16",
    ]
    assert len(names) == len(set(names)) == 4 + 3 * 5
    status, said, found = go(plan, tmp_path)
    assert status == 0, said
    assert len(found["op"]) == 2 * 15 and found["host_time"] == {"us": 1.0}
    assert {(r["operator"], r["dtype"]) for r in found["op"]} >= {("dcnv3", "float32"), ("ms_deform_attn", "bfloat16")}
    assert "### dcnv4, float16: milliseconds" in (tmp_path / "gpu-bench-op.md").read_text()


@needs_kernel
@pytest.mark.usefixtures("small_networks")
def test_the_networks_stage_from_end_to_end(tmp_path, monkeypatch):
    measure = model.measure

    def small(names, size, setting):
        setting = dataclasses.replace(setting, compiled=False, graphs=False, pairs=1)
        return measure(names, images.Size(2, 32, 32, 1), setting)

    monkeypatch.setattr(model, "measure", small)
    monkeypatch.setattr(machine, "measure_ceilings", lambda *_: CEILINGS)
    plan = list(stage.model_items(CPU))
    assert [item.name for item in plan][1:3] == ["classify 128 bfloat16", "internimage_t 1x224 graph"]
    said = []
    assert stage.run("model", plan, tmp_path, CPU, clock=lambda: 0.0, say=said.append) == 0, "\n".join(said)
    found = results.read(tmp_path / "gpu-bench-model.json")
    runs = found["model"]["runs"]
    assert len(runs) == 8 and {run["dtype"] for run in runs} == {"bfloat16"}
    assert [run["task"] for run in runs].count("train") == 2
    if networks.chosen_peers(None):
        assert runs[0]["rows"][-1]["network"] == stage.SWIN


def test_without_a_card_it_says_so_and_fails(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in stage.FILES:
        assert stage.main([name, str(tmp_path)]) == 1
        out = capsys.readouterr().out
        assert out.count("\n") == 1 and f"gpu-bench-{name}: torch" in out and "finds no CUDA card here" in out
    assert not list(tmp_path.iterdir())


def test_peers_are_imported_from_a_folder_of_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "unpacked" / "some_peer").mkdir(parents=True)
    stage.add_peers(tmp_path)
    assert str(tmp_path) in sys.path and str(tmp_path / "unpacked") in sys.path
    with pytest.raises(ValueError, match="is no folder; expected one that holds unpacked wheels"):
        stage.add_peers(tmp_path / "nothing")


def test_the_operators_stage_needs_nothing_but_torch():
    script = """
import sys
for name in ("typer", "rich", "PIL", "torchvision", "timm", "numpy", "safetensors", "huggingface_hub"):
    sys.modules[name] = None
from internimage.bench import stage
items = list(stage.operator_items(stage.torch.device("cpu")))
from internimage.bench import report, op, targets, results
op.chosen([])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=HERE)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("make") is None or torch.cuda.is_available(), reason="needs make, and no card")
def test_make_gpu_without_a_card_is_one_line(tmp_path):
    line = ["make", "gpu", f"PYTHON={sys.executable}", f"GPU_RESULTS={tmp_path / 'results'}"]
    # the tests themselves may run under make, which would then speak as one make within another
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    done = subprocess.run(line, cwd=HERE, env=environment, capture_output=True, text=True)
    assert done.returncode != 0 and not done.stdout and not (tmp_path / "results").exists()
    words, of_make = done.stderr.splitlines()
    assert words.startswith("make gpu: torch ") and words.endswith("finds no CUDA card here; nothing was run")
    assert of_make.startswith("make: ***")
