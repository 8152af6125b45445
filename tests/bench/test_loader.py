"""The loader benchmark on made-up pictures."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from internimage.bench import loader
from internimage.cli.bench import app


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return loader.make_up(tmp_path_factory.mktemp("pictures"), count=12, size=(90, 60))


def test_steps_and_rates_are_measured(folder):
    found = loader.measure(str(folder), (0, 1), size=40, batch_size=4, seconds=0.0)
    assert found["pictures"] == 12 and found["image_size"] == 40
    assert set(found["steps_ms"]) == {"read", "decode", "decode_reduced", "augment", "decode_torchvision"}
    assert found["steps_ms"]["augment"] > 0 and found["steps_ms"]["decode_torchvision"] > 0
    assert [rate["workers"] for rate in found["rates"]] == [0, 1]
    assert all(rate["images_per_s"] > 0 for rate in found["rates"])


def test_workers_needed_follow_from_the_best_rate_of_one():
    measured = ((0, 500.0, 600.0), (1, 100.0, None), (4, 480.0, None))
    rates = [{"workers": w, "images_per_s": rate, "images_per_core_s": core} for w, rate, core in measured]
    assert loader.workers_needed(rates, 1200.0) == 2.0
    assert loader.workers_needed(rates[1:], 1200.0) == 10.0
    assert loader.workers_needed([], 1200.0) is None


def test_the_command_prints_figures_and_json(folder):
    arguments = ["loader", str(folder), "--workers", "0", "--size", "32", "--batch-size", "4", "--seconds", "0"]
    plain = CliRunner().invoke(app, [*arguments, "--target", "100"])
    assert plain.exit_code == 0 and "0 workers" in plain.stdout and "ms a picture" in plain.stdout
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert found["rates"][0]["workers"] == 0 and found["workers_needed"] is None


def test_what_cannot_be_is_refused(folder):
    result = CliRunner().invoke(app, ["loader", str(folder), "--workers", "0,many"])
    assert result.exit_code == 2 and "--workers is '0,many'" in result.stderr
    (folder / "even" / "empty").mkdir()
    for path in folder.rglob("*.jpg"):
        path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="none of 12 pictures of .* can be read"):
        loader.measure(str(folder), (0,), size=32)
