"""Another commit beside this tree: how it is found, built, run in turns, and what it says when it cannot."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest
import torch

from internimage.bench import compare, worker
from internimage.bench.asked import Asked
from internimage.bench.work import BOTH, FORWARD
from internimage.ops import native

needs_kernel = pytest.mark.skipif(native.load_error() is not None, reason=str(native.load_error()))
OPERATOR = {
    **{"part": "op", "device": "cpu", "threads": 1, "dtype": "float32"},
    **{"operator": "dcnv4", "shape": "4x5x8/2", "direction": FORWARD},
}
NETWORK = {
    **{"part": "model", "device": "cpu", "threads": 1, "dtype": "float32", "model": "internimage_t"},
    **{"batch": 1, "size": [32, 32], "features": False, "train": False},
}


def git(folder, *words):
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with one commit, in place of ours."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "internimage" / "bench").mkdir(parents=True)
    (tmp_path / "internimage" / "__init__.py").touch()
    (tmp_path / "internimage" / "bench" / "old.py").write_text("old = True")
    (tmp_path / "setup.py").write_text("raise SystemExit('no compiler was found')")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    monkeypatch.setattr(compare, "HERE", tmp_path)
    return tmp_path


def no_progress(line):
    pass


class TestTree:
    def test_a_commit_has_a_full_name(self, repository):
        assert len(compare.resolve("HEAD")) == 40

    @pytest.mark.parametrize("ref", ["no-such-branch", "--help", ""])
    def test_an_unknown_commit_is_one_error(self, ref, repository):
        with pytest.raises(ValueError, match=f"--compare {ref!r} is no commit of .*expected a branch, tag or commit"):
            compare.resolve(ref)

    def test_without_a_repository_there_is_nothing_to_compare_with(self, tmp_path, monkeypatch):
        monkeypatch.setattr(compare, "HERE", tmp_path)
        with pytest.raises(ValueError, match="needs a clone of the repository"):
            compare.resolve("HEAD")

    def test_without_git_neither(self, repository, monkeypatch):
        monkeypatch.setenv("PATH", "")
        with pytest.raises(ValueError, match="needs git"):
            compare.resolve("HEAD")

    def test_kernels_that_cannot_be_built_are_one_error_and_nothing_is_left(self, repository):
        with (
            pytest.raises(ValueError, match=r"cannot be built here \(no compiler was found\)"),
            compare.tree_of(compare.resolve("HEAD"), build=True, progress=no_progress),
        ):
            pass
        done = subprocess.run(["git", "-C", str(repository), "worktree", "list"], capture_output=True, text=True)
        assert done.stdout.count("\n") == 1

    def test_the_tree_has_the_benchmark_of_this_one(self, repository):
        with compare.tree_of(compare.resolve("HEAD"), build=False, progress=no_progress) as tree:
            names = {path.name for path in (tree / "internimage" / "bench").iterdir()}
            assert "worker.py" in names and "old.py" not in names
        assert not tree.exists()

    def test_a_tree_that_the_benchmark_does_not_run_in_says_so(self, repository):
        with (
            compare.tree_of(compare.resolve("HEAD"), build=False, progress=no_progress) as tree,
            pytest.raises(ValueError, match="this benchmark does not run there: "),
            compare._Worker.started(tree, True),
        ):
            pass


class TestWorker:
    @needs_kernel
    @pytest.mark.parametrize("direction", [FORWARD, BOTH])
    def test_it_times_an_operator_and_keeps_it(self, direction):
        kept = {}
        case = {**OPERATOR, "direction": direction}
        assert worker.answer({"case": case, "seconds": 0.0}, kept)["ms"] > 0
        (first,) = kept.values()
        worker.answer({"case": case, "seconds": 0.0}, kept)
        assert list(kept.values()) == [first]

    @needs_kernel
    @pytest.mark.usefixtures("small_networks")
    def test_it_times_a_network(self):
        assert worker.answer({"case": NETWORK, "seconds": 0.0}, {})["ms"] > 0

    @needs_kernel
    def test_it_answers_every_line_and_tells_its_errors(self, monkeypatch, capsys):
        lines = [{"case": OPERATOR, "seconds": 0.0}, {"case": {**OPERATOR, "operator": "dcnv5"}, "seconds": 0.0}]
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(json.dumps(line) + "\n" for line in lines)))
        worker.main()
        hello, time, error = (json.loads(line) for line in capsys.readouterr().out.splitlines())
        assert hello["tree"] == str(compare.HERE) and time["ms"] > 0 and error["error"].startswith("KeyError")


class Side:
    """A worker that needs so many milliseconds, and notes who is asked when."""

    def __init__(self, name, times, asked):
        self.name, self.times, self.asked = name, times, asked

    def ask(self, question):
        self.asked.append(self.name)
        time = self.times.pop(0)
        return {"error": time} if isinstance(time, str) else {"ms": time}


def test_both_are_asked_in_turns_and_the_first_answers_only_warm_up():
    asked = []
    sides = {"this": Side("this", [9, 1, 2, 1], asked), "ref": Side("ref", [9, 2, 6, 2], asked)}
    found = compare._in_turns(OPERATOR, sides, 3, 0.1)
    assert found == {"this_ms": 1, "ref_ms": 2, "ratio": 2.0, "left_out": None}
    assert asked == ["ref", "this", "this", "ref", "ref", "this", "this", "ref"]


def test_a_side_that_fails_is_left_out_with_its_reason():
    sides = {"this": Side("this", [1], []), "ref": Side("ref", ["KeyError: 'dcnv4'"], [])}
    assert compare._in_turns(OPERATOR, sides, 3, 0.1)["left_out"] == "ref: KeyError: 'dcnv4'"


def test_all_that_is_asked_for_is_compared():
    cpu = torch.device("cpu")
    found = compare.cases("op", Asked(names=("dcnv4",), quick=True), cpu)
    assert [compare._title(case) for case in found[:2]] == [
        "dcnv4 14x14x64/4 float32 forward", "dcnv4 14x14x64/4 float32 forward+backward",
    ]  # fmt: skip
    found = compare.cases("model", Asked(shapes="2x32x32", dtype="bfloat16", train=True), cpu)
    assert [compare._title(case) for case in found] == [
        "internimage_t train 2x32x32 bfloat16", "flash_internimage_t train 2x32x32 bfloat16",
    ]  # fmt: skip


@pytest.mark.slow
@needs_kernel
@pytest.mark.skipif(not (compare.HERE / ".git").exists(), reason="no clone of the repository")
def test_this_commit_beside_itself(results):
    found = compare.run("op", Asked(names=("dcnv4",), quick=True, compare="HEAD"), torch.device("cpu"), no_progress)
    assert found["ref"] == "HEAD" and len(found["rows"]) == 4
    assert all(row["left_out"] is None and 0.2 < row["ratio"] < 5 for row in found["rows"]), found
