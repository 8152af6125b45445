"""The results file, its tables, and the machine it says it is of."""

from __future__ import annotations

import json
import types

import pytest
import torch

from internimage.bench import machine, report
from internimage.bench import results as results_file
from internimage.bench.compare import HERE
from internimage.bench.operators import OURS
from internimage.cli.output import printer


class TestFile:
    def test_it_is_read_as_it_was_written(self, results, tmp_path):
        results_file.write(results, tmp_path / "new" / "a.json")
        assert results_file.read(tmp_path / "new" / "a.json") == results

    def test_its_head_says_what_where_and_when(self):
        head = results_file.begin("internimage bench", torch.device("cpu"), True, {"threads": 1})
        assert list(head) == ["schema", "command", "date", "commit", "machine", "versions", "quick", "setting"]
        assert set(head["machine"]) == {
            "device", "cpu", "cores", "system", "caches", "load_average", "instruction_set",
        }  # fmt: skip
        assert head["versions"]["torch"] == torch.__version__.partition("+")[0]

    @pytest.mark.parametrize(
        ("content", "error"),
        [
            ("not json", "is not JSON"),
            ("[1]", "has schema None, expected 2"),
            ('{"schema": 1}', "has schema 1, expected 2; measure again"),
            ('{"schema": 2, "command": "x"}', "lacks date, commit, machine"),
        ],
    )
    def test_what_is_no_results_file_is_refused(self, content, error, tmp_path):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(ValueError, match=error):
            results_file.read(tmp_path / "a.json")

    def test_it_is_named_after_what_it_holds(self, results):
        assert results_file.file_name(results) == "cpu-2026-11-25.json"
        del results["model"]
        assert results_file.file_name(results) == "cpu-op-2026-11-25.json"
        results["machine"]["device"] = {"name": "NVIDIA H100"}
        assert results_file.file_name(results) == "nvidia-h100-op-2026-11-25.json"
        results["quick"] = True
        assert results_file.file_name(results) == "nvidia-h100-op-quick-2026-11-25.json"


class TestTables:
    def test_markdown_is_well_formed_and_says_everything(self, results):
        text = report.markdown(results)
        for table in text.split("### ")[1:]:
            lines = [line for line in table.splitlines() if line.startswith("|")]
            assert len({line.count("|") for line in lines}) == 1 and len(lines) > 2
        for words in (
            "| classify | <= 1.2 | 1.30 | 1.10 | no |",
            "| dcnv4 | >= 8 (aim 12) | 9.00 |  | yes |",
            "| 56x56x128/4 | forward | 1 | 9 | 40 | 9.0x |",
            "2 (1.5-3)",
            "900 queries at the 20197 positions of levels 100x152, 50x76, 25x38, 13x19",
            "| internimage_t | 8x8 | not known | 3.0 MiB |",
            "Left out: resnet50, does not take it.",
            "Left out: DCNv4, not installed.",
            "| dcnv5 | ref: unknown |",
            "### Where the time goes: classify, batch 1, float32, milliseconds",
            "one thread",
        ):
            assert words in text, words

    def test_the_terminal_shows_the_same_tables(self, results, capsys):
        report.show(results, printer())
        shown = capsys.readouterr().out
        assert "internimage_t on grid_sample" in shown and "This tree beside main" in shown

    def test_a_busy_machine_is_said(self, results):
        assert not any("busy" in line for line in report.header(results))
        results["machine"]["load_average"] = 5.0
        assert any("busy" in line for line in report.header(results))
        results["machine"]["load_average"] = None
        assert "load average unknown" in report.header(results)[0]

    def test_a_card_stands_first_and_medians_count(self, results):
        results["machine"]["device"] = {
            "name": "NVIDIA H100", "memory_bytes": 80 * 2**30, "capability": "9.0", "driver": None, "cuda": "13.0",
        }  # fmt: skip
        assert report.header(results)[0] == "NVIDIA H100, 80 GiB, sm_90, driver unknown, CUDA 13.0"
        assert "milliseconds, median" in report.markdown(results)

    def test_released_figures_stand_beside_ours_where_there_are_some(self, results):
        assert "released" not in report.markdown(results)
        results["model"]["runs"][0]["rows"][0]["released_images_per_s"] = 156
        assert "| released TensorRT, images/s |" in report.markdown(results) and "| 156 |" in report.markdown(results)

    def test_a_peer_that_is_less_exact_is_named(self, results):
        results["op"][0]["forms"]["gs"]["error"] = 1e-3
        assert "gs is off by up to 1.0e-03; of ours 0.0001 is allowed." in report.markdown(results)

    def test_absent_peers_are_said(self, results):
        run = results["model"]["runs"][0]
        run["baseline"] = None
        for row in run["rows"]:
            row["over_baseline"] = row["over_baseline_cpu_time"] = None
        assert "timm is not installed" in report.markdown(results)


class TestMachine:
    def test_the_ceilings_are_measured(self, monkeypatch):
        monkeypatch.setattr(machine, "best_seconds", lambda run, seconds, clock: run() is None or 1e-3)
        ceilings = machine.measure_ceilings(quick=True, dtype=torch.bfloat16)
        assert ceilings.gflops == pytest.approx(2 * 512**3 / 1e-3 / 1e9) and ceilings.dtype == "bfloat16"
        assert ceilings.memory_gbytes_per_s == pytest.approx(2 * 2**26 / 1e-3 / 1e9)

    def test_the_higher_of_two_measurements_counts(self):
        first, second = machine.Ceilings("float32", 1.0, 5.0, 3.0), machine.Ceilings("float32", 2.0, 4.0, 3.0)
        assert machine.best_of(first, second) == machine.Ceilings("float32", 2.0, 5.0, 3.0)

    def test_names_and_sizes(self):
        assert machine.cpu_name() and all(size > 0 for size in machine.cache_sizes().values())

    def test_a_card_without_its_tool_has_no_driver_version(self, monkeypatch):
        monkeypatch.setenv("PATH", "")
        assert machine._driver() is None

    def test_a_card_is_described(self, monkeypatch):
        card = types.SimpleNamespace(name="NVIDIA H100", total_memory=80, major=9, minor=0, L2_cache_size=50)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
        monkeypatch.setattr(machine, "_driver", lambda: "580.1")
        found = machine.describe_card(torch.device("cuda"))
        assert (found["name"], found["capability"], found["l2_bytes"], found["driver"]) == (
            "NVIDIA H100", "9.0", 50, "580.1",
        )  # fmt: skip

    def test_the_digest_is_of_the_sources(self):
        digest = machine.source_digest()
        assert len(digest) == 12 and digest == machine.source_digest()


def _keys(value):
    """All keys but those that are names: of forms, versions, networks, kinds of work."""
    named = {"forms", "variants", "versions", "caches", "peers", "errors", "left_out", "ms", "setting"}
    for part in value if isinstance(value, list) else []:
        yield from _keys(part)
    for key, part in value.items() if isinstance(value, dict) else []:
        yield key
        yield from _keys(part) if key not in named else ()


def test_every_key_stands_in_the_documentation(results):
    text = (HERE / "docs" / "benchmarks.md").read_text()
    keys = {*_keys(results), *results["op"][0]["forms"][OURS]}
    assert [key for key in sorted(keys) if f"`{key}`" not in text] == []


def test_results_are_json_that_anyone_reads(results):
    assert json.loads(results_file.text(results)) == results
