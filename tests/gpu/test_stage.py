"""The stage's own bookkeeping, which needs no card."""

from __future__ import annotations

import json
import os

import pytest

from tests.gpu import __main__ as stage

PASSES = "def test_passes(): pass\n"
FAILS = "def test_fails(): assert False, 'as it should'\n"
SLEEPS = "import time\ndef test_sleeps(): time.sleep(60)\n"


@pytest.fixture
def groups(monkeypatch, tmp_path):
    """``groups(name=source, ...)`` are what the stage runs."""
    monkeypatch.setattr(stage, "_environment", lambda: dict(os.environ))

    def write(**sources: str) -> None:
        found = {}
        for name, source in sources.items():
            file = tmp_path / f"test_{name}.py"
            file.write_text(source, encoding="utf-8")
            found[name] = [str(file)]
        monkeypatch.setattr(stage, "GROUPS", found)

    return write


def test_writes_what_finished_and_skips_it_in_the_next_call(groups, tmp_path, monkeypatch):
    groups(good=PASSES, bad=FAILS)
    results = stage.run(tmp_path / "results")
    assert results["groups"]["good"]["passed"] == 1 and not results["groups"]["good"]["failures"]
    assert "as it should" in results["groups"]["bad"]["failures"][0]
    assert json.loads((tmp_path / "results/gpu-test.json").read_text())["groups"].keys() == {"good", "bad"}
    assert "| bad | 0 | 1 |" in (tmp_path / "results/gpu-test.md").read_text()
    run, again = stage._run_group, []
    monkeypatch.setattr(stage, "_run_group", lambda arguments, *rest: again.append(arguments) or run(arguments, *rest))
    stage.run(tmp_path / "results")
    assert again == [stage.GROUPS["bad"]]


def test_what_is_cut_off_is_begun_again(groups, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "LEAST", 0.0)
    groups(endless=SLEEPS)
    results = stage.run(tmp_path / "results", seconds=2.0)
    assert not results["groups"]["endless"]["finished"] and not stage.finished(results, "endless")
    groups(endless=PASSES)
    assert stage.finished(stage.run(tmp_path / "results"), "endless")


def test_other_code_begins_anew(groups, tmp_path, monkeypatch):
    groups(good=PASSES)
    stage.run(tmp_path / "results")
    monkeypatch.setattr(stage, "_code", lambda: "other")
    monkeypatch.setattr(stage, "_run_group", lambda *arguments: None)
    assert not stage.run(tmp_path / "results")["groups"]


def test_every_long_test_of_the_operators_belongs_to_exactly_one_group():
    """They name their dtype, by which they are divided."""
    for operator in ("dcnv3", "dcnv4", "ms_deform_attn"):
        tests = (stage.REPOSITORY / f"tests/ops/{operator}_triton_cases.py").read_text(encoding="utf-8")
        for test in tests.split("@pytest.mark.slow\n")[1:]:
            assert "ids=str)" in test.split("def ")[0] and "dtype" in test.split("def ")[0]
    for name in (f"test[{dtype}-case]" for dtype in stage.DTYPES):
        assert sum(dtype in name for dtype in stage.DTYPES) == 1


def test_says_so_where_there_is_no_card(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(SystemExit, match="no CUDA device; with TRITON_INTERPRET=1"):
        stage._environment()
