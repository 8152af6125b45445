"""Evaluations in several goes, by several readers and by several processes give what one go gives."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from internimage.classifier import load
from internimage.data.image_folder import find_image_folder
from internimage.data.shards import read_shards
from internimage.evaluate import asking
from internimage.evaluate.asking import ask_about_all
from internimage.evaluate.classes import match_outputs
from internimage.evaluate.classification import evaluate_classifier
from internimage.evaluate.pictures import as_data
from tests.small_model import NAMES, save_small_model, small_model


@pytest.fixture
def folder(tmp_path):
    """Eleven pictures of three classes, one of which is none."""
    noise = np.random.default_rng(0)
    for number in range(11):
        path = tmp_path / "data" / NAMES[number % 3] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (20, 30), dtype=np.uint8)).save(path)
    path.write_bytes(b"no picture")
    return tmp_path / "data"


@pytest.fixture
def classifier(tmp_path):
    return load(save_small_model(tmp_path / "small.safetensors"), device="cpu")


def ask(classifier, folder, **options):
    data = as_data(find_image_folder(folder))
    match = match_outputs(data.class_names, classifier.class_names)
    return ask_about_all(classifier, data, match, **{"batch_size": 2, **options})


def same(a, b) -> bool:
    """Equal answers; other batches may round the loss otherwise."""
    exact = all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("labels", "best", "in_top5"))
    close = torch.allclose(a.loss, b.loss, atol=1e-5) and torch.allclose(a.prob, b.prob, atol=1e-5)
    return a.unreadable == b.unreadable and exact and close


def test_readers_change_nothing(classifier, folder):
    assert same(ask(classifier, folder), ask(classifier, folder, workers=2))


def test_shards_are_counted_like_files_and_gone_on_with(classifier, folder, tmp_path):
    pytest.importorskip("webdataset")
    (tmp_path / "shards").mkdir()
    files = [path for name in sorted(NAMES) for path in sorted((folder / name).iterdir())]
    for number in range(3):
        with tarfile.open(tmp_path / "shards" / f"{number}.tar", "w") as tar:
            for path in files[4 * number : 4 * number + 4]:
                tar.add(path, f"{path.stem}.png")
                label = tarfile.TarInfo(f"{path.stem}.cls")
                text = str(sorted(NAMES).index(path.parent.name)).encode()
                label.size = len(text)
                tar.addfile(label, io.BytesIO(text))
    (tmp_path / "shards" / "classes.txt").write_text("\n".join(sorted(NAMES)))
    shards = read_shards(str(tmp_path / "shards"))
    match = match_outputs(shards.class_names, classifier.class_names)
    batches = iter(range(100))
    part = ask_about_all(
        classifier, shards, match, batch_size=3, resume=tmp_path / "kept", should_stop=lambda: next(batches) == 1
    )
    assert len(part.pending) == 5
    got = ask_about_all(classifier, shards, match, batch_size=3, workers=1, resume=tmp_path / "kept")
    want = ask(classifier, folder)
    assert got.unreadable.keys() == want.unreadable.keys()
    assert torch.equal(got.best, want.best) and torch.equal(got.labels, want.labels)


@pytest.mark.parametrize("after", [1, 2, 4])
def test_stopped_and_resumed_it_asks_about_each_picture_once(classifier, folder, tmp_path, after):
    whole = ask(classifier, folder)
    asked: list[int] = []
    hook = classifier.model.register_forward_hook(lambda module, inputs, output: asked.append(len(output)))
    batches = iter(range(100))
    part = ask(classifier, folder, resume=tmp_path / "kept", should_stop=lambda: next(batches) + 1 >= after)
    assert len(part.pending) == 11 - 2 * after and sum(asked) <= 2 * after
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["evaluation.safetensors"]
    rest = ask(classifier, folder, resume=tmp_path / "kept", batch_size=3)
    hook.remove()
    assert sum(asked) == 10 and same(rest, whole) and rest.seconds > part.seconds


def test_an_error_keeps_what_was_counted(classifier, folder, tmp_path, monkeypatch):
    judge, calls = asking.judge, iter(range(100))

    def judge_or_fail(*arguments):
        if next(calls) == 2:
            raise RuntimeError("out of memory")
        return judge(*arguments)

    monkeypatch.setattr(asking, "judge", judge_or_fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        ask(classifier, folder, resume=tmp_path / "kept.safetensors")
    monkeypatch.undo()
    assert same(ask(classifier, folder, resume=tmp_path / "kept.safetensors"), ask(classifier, folder))


def test_what_was_kept_of_another_model_or_other_data_is_refused(classifier, folder, tmp_path):
    kept = tmp_path / "kept.safetensors"
    ask(classifier, folder, resume=kept)
    with pytest.raises(ValueError, match=r"kept.safetensors is an evaluation of other weights: checksum .*, this one"):
        with torch.no_grad():
            classifier.model.head.fc.bias[0] += 1
        ask(classifier, folder, resume=kept)
    with torch.no_grad():
        classifier.model.load_state_dict(small_model().state_dict())
    (folder / NAMES[0] / "00.png").unlink()
    with pytest.raises(ValueError, match="is an evaluation of other data: 11 pictures .*, this one is of 10 pictures"):
        ask(classifier, folder, resume=kept)
    for contents in (b"nothing of the kind", (tmp_path / "small.safetensors").read_bytes()):
        kept.write_bytes(contents)
        with pytest.raises(ValueError, match="is not an evaluation that was broken off .*name another file"):
            ask(classifier, folder, resume=kept)


def test_a_model_that_gives_no_numbers_is_refused(classifier, folder):
    with torch.no_grad():
        classifier.model.head.fc.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="the model gives no numbers in float32"):
        ask(classifier, folder)


def test_surest_mistakes_come_first(classifier, folder):
    scores = evaluate_classifier(classifier, find_image_folder(folder))
    mistakes = scores.worst_mistakes(100)
    assert len(mistakes) == round(scores.pictures * (1 - scores.top1 / 100)) > 2
    assert [m.prob for m in mistakes] == sorted((m.prob for m in mistakes), reverse=True)
    assert scores.worst_mistakes(2) == mistakes[:2] and all(m.truth != m.answer for m in mistakes)
    right = sum(count for truth, answer, count in scores.confusion if truth == answer)
    assert sum(count for *_, count in scores.confusion) == 10 and 10 * right == pytest.approx(scores.top1)


@pytest.mark.slow
def test_processes_count_each_picture_once(folder, tmp_path):
    evaluate = _Command(save_small_model(tmp_path / "small.safetensors"), folder, tmp_path)
    alone = evaluate(0)
    shared = evaluate(2, "--resume", tmp_path / "kept")
    assert alone["pictures"] == shared["pictures"] == 10 and len(shared["unreadable"]) == 1
    assert alone["classes"] == shared["classes"] and alone["top1"] == shared["top1"]
    assert alone["loss"] == pytest.approx(shared["loss"], abs=2e-4)
    assert evaluate(0, "--resume", tmp_path / "kept")["top1"] == alone["top1"]  # by whom does not matter


@pytest.mark.slow
def test_more_processes_than_pictures(folder, tmp_path):
    for path in sorted(folder.rglob("*.png"))[:-2]:
        path.unlink()
    for path in [path for path in folder.iterdir() if not any(path.iterdir())]:
        path.rmdir()
    evaluate = _Command(save_small_model(tmp_path / "small.safetensors"), folder, tmp_path)
    assert evaluate(3)["pictures"] == 2


class _Command:
    """``internimage evaluate`` as processes of its own: so many under torchrun, or one without for 0."""

    def __init__(self, model: Path, folder: Path, here: Path) -> None:
        self.words = [sys.executable, "-m", "internimage", "evaluate", model, "--data", folder, "--json"]
        self.words += ["--device", "cpu", "--batch-size", "2"]
        self.here = here

    def __call__(self, processes: int, *options: object) -> dict:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python"]
        start = [*torchrun, f"--nproc-per-node={processes}"] if processes else []
        ran = subprocess.run(
            [str(word) for word in (*start, *self.words, *options)],
            capture_output=True,
            text=True,
            cwd=self.here,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            timeout=200,
        )
        assert ran.returncode in (0, 1, 3), ran.stderr  # torchrun makes 1 of the 3 that unreadable pictures give
        answer = json.loads(ran.stdout)  # one process speaks
        assert ran.stderr.count("skipped: ") == len(answer["unreadable"])
        return answer
