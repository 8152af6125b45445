"""When launch settings are measured, and the file that keeps them; with times that are made up."""

from __future__ import annotations

import json
import logging
import math

import pytest

from internimage.ops import autotune, tuning

FIRST, SECOND, THIRD = (1, 4, 3), (2, 4, 3), (2, 8, 1)
CANDIDATES = (FIRST, SECOND, THIRD)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("INTERNIMAGE_CACHE", str(tmp_path))
    monkeypatch.delenv("INTERNIMAGE_AUTOTUNE", raising=False)
    tuning._settings.cache_clear()
    yield tmp_path
    tuning._settings.cache_clear()


class Times:
    """Made-up seconds by setting; remembers what was asked."""

    def __init__(self, **seconds: float):
        self.seconds, self.asked = seconds, []

    def __call__(self, setting: tuning.Setting) -> float:
        self.asked.append(setting)
        return {FIRST: 3.0, SECOND: 1.0, THIRD: math.inf}[setting]


def test_nothing_is_measured_unasked(folder):
    times = Times()
    assert tuning.setting_for("class", CANDIDATES, times) == FIRST
    assert not times.asked and not list(folder.iterdir())


def test_measures_once_where_asked_and_keeps_the_fastest(folder):
    times = Times()
    with autotune():
        assert tuning.setting_for("class", CANDIDATES, times) == SECOND
        assert tuning.setting_for("class", CANDIDATES, times) == SECOND
    assert times.asked == list(CANDIDATES)
    assert [path.name for path in folder.iterdir()] == ["launch_settings.json"]


def test_another_process_finds_it_unasked(folder):
    with autotune():
        tuning.setting_for("class", CANDIDATES, Times())
    tuning._settings.cache_clear()
    times = Times()
    assert tuning.setting_for("class", CANDIDATES, times) == SECOND and not times.asked
    assert tuning.setting_for("another class", CANDIDATES, times) == FIRST


def test_the_environment_asks(monkeypatch):
    monkeypatch.setenv("INTERNIMAGE_AUTOTUNE", "1")
    assert tuning.setting_for("class", CANDIDATES, Times()) == SECOND


def test_nothing_is_measured_where_nothing_can_be():
    """As while a CUDA graph is captured."""
    with autotune():
        assert tuning.setting_for("class", CANDIDATES, None) == FIRST


def test_a_setting_that_is_no_candidate_any_more_is_not_taken(folder):
    with autotune():
        tuning.setting_for("class", CANDIDATES, Times())
    assert tuning.setting_for("class", (FIRST, THIRD), None) == FIRST


def test_what_other_processes_have_kept_stays(folder):
    with autotune():
        tuning.setting_for("class", CANDIDATES, Times())
        contents = json.loads(tuning.path().read_text())
        contents["settings"]["of another process"] = [7, 7, 7]
        tuning.path().write_text(json.dumps(contents))
        tuning.setting_for("second class", CANDIDATES, Times())
    assert json.loads(tuning.path().read_text())["settings"].keys() == {"class", "of another process", "second class"}


DAMAGED = {
    "no JSON": "{",
    "a list": "[1, 2]",
    "of something else": '{"format": "something else", "settings": {}}',
    "no settings": f'{{"format": "{tuning.FORMAT}"}}',
    "settings of another kind": f'{{"format": "{tuning.FORMAT}", "settings": {{"class": 3}}}}',
    "words for numbers": f'{{"format": "{tuning.FORMAT}", "settings": {{"class": ["a"]}}}}',
}


@pytest.mark.parametrize("contents", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_or_foreign_file_is_ignored_with_one_line(folder, contents, caplog):
    tuning.path().write_text(contents)
    with caplog.at_level(logging.WARNING, "internimage"):
        assert [tuning.setting_for("class", CANDIDATES, Times()) for _ in range(3)] == [FIRST] * 3
    assert len(caplog.records) == 1 and "launch_settings.json is ignored" in caplog.text
    with autotune():
        assert tuning.setting_for("class", CANDIDATES, Times()) == SECOND
    assert json.loads(tuning.path().read_text())["settings"] == {"class": list(SECOND)}


def test_a_folder_that_takes_no_file_costs_a_line_and_nothing_else(monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INTERNIMAGE_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING, "internimage"), autotune():
        for name in ("class", "second class"):
            assert tuning.setting_for(name, CANDIDATES, Times()) == SECOND
    assert "are not kept" in caplog.text
    for name in ("class", "second class"):
        assert tuning.setting_for(name, CANDIDATES) == SECOND, "this process knows it all the same"


def test_who_keeps_a_setting_can_tell_that_others_may_apply():
    before = tuning.generation
    with autotune():
        inside = tuning.generation
    assert before != inside != tuning.generation
    assert not tuning.asked()
