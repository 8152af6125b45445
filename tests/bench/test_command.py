"""``python -m internimage.bench``: what it prints and writes, and how it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from internimage.bench import __main__ as command
from internimage.bench import machine, model, op, report, timing
from internimage.bench.work import Shape
from internimage.ops import native
from internimage.ops.dispatch import BackendError

ROOT = Path(__file__).parents[2]
needs_kernel = pytest.mark.skipif(native.load_error() is not None, reason=str(native.load_error()))

RUN = {
    "task": "classify",
    "size": [224, 224],
    "pairs": 3,
    "error": 1e-6,
    "rows": [
        {
            "form": form,
            "min_ms": 10.0,
            "median_ms": 11.0,
            "over_convnext": over,
            "over_convnext_cpu_time": over,
            "over_ours": 1.0,
            "over_ours_cpu_time": 1.0,
        }
        for form, over in ((model.OURS, 1.25), (model.FREE, None))
    ],
}
TARGET = {"what": "classify", "sense": "<=", "wanted": 1.25, "got": 1.3, "free_operator": 1.1, "met": False}
MODEL = {
    "forms": [model.OURS, model.FREE],
    "runs": [RUN],
    "memory": [{"size": [8, 8], "form": model.OURS, "resident_bytes": None, "allocated_bytes": 3 * 2**20}],
    "targets": [TARGET],
}


@pytest.fixture
def quick(monkeypatch):
    """The operator at one tiny shape, the networks not at all."""
    monkeypatch.setattr(op, "QUICK_SHAPES", (Shape(4, 5, 8, 2),))
    monkeypatch.setattr(model, "run", lambda quick, progress: MODEL)
    monkeypatch.setattr(machine, "measure_ceilings", lambda quick: machine.Ceilings(100.0, 10.0, 80.0))


def call(*words):
    app = command.typer.Typer()
    app.command()(command.bench)
    return CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)


@needs_kernel
def test_tables_are_printed_and_files_written(quick, tmp_path):
    done = call("--quick", "--output", tmp_path / "new", "--json", tmp_path / "a.json", "--markdown", tmp_path / "a.md")
    assert done.exit_code == 0
    for words in (
        "4x5x8 G=2",
        "deform_conv2d",
        "internimage_t free operator",
        "Again: `python -m internimage.bench --quick`",
    ):
        assert words in done.stdout
    results = json.loads((tmp_path / "a.json").read_text())
    assert list(results) == [
        "schema", "command", "date", "commit", "machine", "versions", "quick", "op", "ceilings", "model",
    ]  # fmt: skip
    assert set(results["machine"]) == {"cpu", "cores", "system", "caches", "load_average", "instruction_set"}
    assert set(results["op"][0]) == {
        "shape", "direction", "ms", "variant_ms", "errors", "wanted", "extra_bytes", "ratio", "ratio_to_torchvision",
        "ratio_to_nearest", "gflops", "gbytes_per_s", "corner_gbytes_per_s",
    }  # fmt: skip
    assert results["versions"]["torch"] == torch.__version__.partition("+")[0]
    dated = tmp_path / "new" / f"cpu-{results['date'][:10]}.json"
    assert json.loads(dated.read_text()) == results
    assert (tmp_path / "a.md").read_text() == report.markdown(results)


@needs_kernel
def test_one_part_alone(quick):
    results = command.measure(command.What.op, quick=True)
    assert "model" not in results and results["command"] == "python -m internimage.bench op --quick"
    assert "op" not in command.measure(command.What.model, quick=True)


def _results(**more):
    about = {"cpu": "A", "cores": 2, "system": "Linux", "caches": {}, "load_average": 0.3, "instruction_set": "avx2"}
    return {"machine": about, "versions": {"torch": "3"}, "commit": None, "date": "today", "command": "x", **more}


def test_markdown_tables_are_well_formed():
    text = report.markdown(_results(model=MODEL))
    tables = [part for part in text.split("### ") if part.startswith(("classify", "Peak", "What is wanted"))]
    assert len(tables) == 3
    for table in tables:
        lines = [line for line in table.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) == 1
    assert "| classify | <= 1.25 | 1.30 | 1.10 | no |" in text
    assert "| internimage_t | 8x8 | not known | 3.0 MiB |" in text


def test_absent_timm_is_said():
    rows = [{**row, "over_convnext": None} for row in RUN["rows"]]
    results = _results(model={**MODEL, "runs": [{**RUN, "rows": rows}], "targets": []})
    assert "convnext_tiny is left out" in report.markdown(results)
    assert "convnext_tiny is left out" not in report.markdown(_results(model=MODEL))


def test_a_busy_machine_is_said():
    results = _results()
    assert not any("busy" in line for line in report.header(results))
    results["machine"]["load_average"] = 5.0
    assert any("busy" in line for line in report.header(results))
    results["machine"]["load_average"] = None
    assert "load average unknown" in report.header(results)[0]


def test_an_error_is_one_line():
    line = [sys.executable, "-m", "internimage.bench", "op", "--quick"]
    environment = {**os.environ, "INTERNIMAGE_BACKEND": "reference"}
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("error: INTERNIMAGE_BACKEND is set") and done.stderr.count("\n") == 1


def test_an_unknown_part_is_a_usage_error():
    done = call("everything")
    assert done.exit_code == 2 and "'everything' is not one of" in done.stderr


def test_without_the_kernel_there_is_nothing_to_time(monkeypatch):
    monkeypatch.setattr(native, "load_error", lambda: "the native kernel was not built")
    for part in (op, model):
        with pytest.raises(BackendError, match="nothing to time: the native kernel was not built"):
            part.run(quick=True)


def test_the_ceilings_are_measured(monkeypatch):
    monkeypatch.setattr(machine, "_best", lambda run, seconds: run() is None or 1e-3)
    ceilings = machine.measure_ceilings(quick=True)
    assert ceilings.gflops == pytest.approx(2 * 512**3 / 1e-3 / 1e9)
    assert ceilings.memory_gbytes_per_s == pytest.approx(2 * 2**26 / 1e-3 / 1e9)
    assert machine.cpu_name() and all(size > 0 for size in machine.cache_sizes().values())


class TestTiming:
    def test_the_best_time_is_the_least_and_slow_ones_get_few_runs(self):
        counts = {"fast": 0, "slow": 0}

        def run(name):
            counts[name] += 1
            time.sleep(2e-3)

        candidates = [timing.Candidate(n, lambda n=n: run(n), seldom=n == "slow") for n in counts]
        best = timing.best_times(candidates, seconds=0.2, rounds=2)
        assert all(2e-3 <= time < 1 for time in best.values())
        assert counts["slow"] < counts["fast"]

    def test_pairs_run_in_turns_and_what_is_around_is_not_timed(self):
        order = []

        @contextmanager
        def around():
            time.sleep(0.05)
            yield
            time.sleep(0.05)

        candidates = [timing.Candidate(n, lambda n=n: order.append(n), around) for n in "ab"]
        samples = timing.paired_samples(candidates, pairs=2)
        assert "".join(order) == "ababba"
        assert all(len(s) == 2 and min(x.wall for x in s) < 0.02 for s in samples.values())

    def test_the_ratio_is_the_median_over_pairs(self):
        slow = [timing.Sample(2.0, 1.0), timing.Sample(30.0, 2.0), timing.Sample(6.0, 3.0)]
        fast = [timing.Sample(1.0, 1.0), timing.Sample(1.0, 1.0), timing.Sample(2.0, 1.0)]
        assert timing.median_ratio(slow, fast) == 3.0
        assert timing.median_ratio(slow, fast, "cpu") == 2.0

    def test_one_thread_is_given_back(self):
        before = torch.get_num_threads()
        with timing.one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == before
