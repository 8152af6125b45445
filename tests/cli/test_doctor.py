"""internimage doctor."""

from __future__ import annotations

from internimage import __version__
from internimage.ops import available_backends, native


def test_every_backend_is_on_or_says_why_not(internimage):
    got = internimage("doctor", "--json")
    assert got.code == 0 and got.json["versions"]["internimage"] == __version__
    assert got.json["backends"]["cpu"] == available_backends("cpu")
    assert got.json["backends"]["cpu"]["reference"] == []
    assert all(isinstance(reasons, list) for kind in got.json["backends"].values() for reasons in kind.values())


def test_people_get_the_same_as_words(internimage):
    got = internimage("doctor")
    assert got.code == 0
    assert all(word in got.out for word in ("torch", "reference", "native kernel", "embedded model", "threads"))


def test_the_environment_is_honoured_and_shown(internimage, monkeypatch, tmp_path):
    monkeypatch.setenv("INTERNIMAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("INTERNIMAGE_BACKEND", "reference")
    monkeypatch.setenv("INTERNIMAGE_AUTOTUNE", "1")
    got = internimage("doctor", "--json").json
    assert got["folders"]["downloads"] == str(tmp_path / "cache")
    assert got["environment"]["INTERNIMAGE_BACKEND"] == "reference"
    assert got["environment"]["INTERNIMAGE_AUTOTUNE"] == "1"
    assert got["picked"]["cpu"] == "reference"


def test_an_unknown_backend_in_the_environment_is_named(internimage, monkeypatch):
    monkeypatch.setenv("INTERNIMAGE_BACKEND", "nonsense")
    got = internimage("doctor", "--json")
    assert got.code == 0 and "nonsense" in got.json["picked"]["cpu"]


def test_a_missing_kernel_is_told(internimage, monkeypatch):
    monkeypatch.setattr(native, "load_error", lambda: "the native kernel was not built")
    got = internimage("doctor")
    assert got.code == 0 and "the native kernel was not built" in got.out


def test_a_missing_embedded_model_is_told(internimage, monkeypatch, tmp_path):
    monkeypatch.setattr("internimage.models.embedded_weights", lambda name: tmp_path / f"{name}.safetensors")
    assert "missing" in internimage("doctor", "--json").json["embedded_model"]["error"]
