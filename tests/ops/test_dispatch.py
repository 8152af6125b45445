"""Which backend runs a call, what is said when none does, and that nothing falls back in silence."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys

import pytest
import torch

from internimage.ops import BackendError, available_backends, dcnv3, dispatch, native
from internimage.ops.dcnv3 import op
from internimage.ops.dispatch import Backend, Call, choose

from .cases import needs_kernel

CALL = Call("dcnv3", (2, 56, 56, 64), torch.float32, "cpu", 4, needs_grad=False)
CALL_WITH_GRAD = Call("dcnv3", (2, 56, 56, 64), torch.float32, "cpu", 4, needs_grad=True)


def arguments(**changes):
    tensors = {"input": torch.ones(1, 3, 3, 4), "offset": torch.zeros(1, 3, 3, 18), "mask": torch.ones(1, 3, 3, 9)}
    return {**tensors, **changes}


@pytest.fixture
def nothing_logged_yet(monkeypatch):
    monkeypatch.setattr(dispatch, "_logged", set())


@pytest.fixture
def no_native_library(monkeypatch, tmp_path, nothing_logged_yet):
    monkeypatch.setattr(native, "PATH", tmp_path / "_kernels.so")
    native._load.cache_clear()
    yield
    native._load.cache_clear()


def test_available_backends_lists_all_with_reasons():
    backends = available_backends("cpu")
    assert list(backends) == ["triton", "cpu", "grid_sample", "reference"]
    assert backends["reference"] == backends["grid_sample"] == []
    assert all(isinstance(reason, str) for reasons in backends.values() for reason in reasons)


def test_available_backends_on_another_device():
    backends = available_backends("cuda")
    assert "input is on cuda" in backends["cpu"]
    assert backends["reference"] == []


def test_without_a_device_it_is_the_one_of_this_machine():
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    assert available_backends() == available_backends(device)


@needs_kernel
def test_the_native_kernels_come_first_on_the_cpu():
    assert choose(op.BACKENDS, CALL).name == "cpu" == choose(op.BACKENDS, CALL_WITH_GRAD).name


def test_without_them_inference_takes_grid_sample_and_training_the_reference(no_native_library):
    assert choose(op.BACKENDS, CALL).name == "grid_sample"
    assert choose(op.BACKENDS, CALL_WITH_GRAD).name == "reference"


def test_the_slower_path_is_logged_once(no_native_library, caplog):
    with caplog.at_level(logging.DEBUG, "internimage"):
        for _ in range(3):
            dcnv3(**arguments())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and len(record.getMessage().splitlines()) == 1
    assert "grid_sample" in record.getMessage() and "cpu: the native kernel was not built" in record.getMessage()


@needs_kernel
def test_the_fast_path_is_logged_once_for_those_who_listen(nothing_logged_yet, caplog):
    with caplog.at_level(logging.DEBUG, "internimage"):
        for _ in range(3):
            dcnv3(**arguments())
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG and "'cpu'" in record.getMessage()


def test_a_backend_asked_for_is_not_logged(no_native_library, caplog):
    with caplog.at_level(logging.DEBUG, "internimage"):
        dcnv3(**arguments(), backend="reference")
    assert not caplog.records


def test_the_numbers_are_the_same_without_the_library(no_native_library):
    assert torch.equal(dcnv3(**arguments()), dcnv3(**arguments(), backend="grid_sample"))


def test_a_library_that_does_not_load_says_so(monkeypatch, tmp_path, nothing_logged_yet):
    broken = tmp_path / "_kernels.so"
    broken.write_text("not a library")
    monkeypatch.setattr(native, "PATH", broken)
    native._load.cache_clear()
    try:
        assert "does not load" in native.load_error()
        with pytest.raises(BackendError, match="does not load"):
            dcnv3(**arguments(), backend="cpu")
    finally:
        native._load.cache_clear()


@needs_kernel
def test_a_library_of_another_version_is_not_called(monkeypatch, nothing_logged_yet):
    class Longer(native.FusedProblem):
        _fields_ = [("new", ctypes.c_int64)]

    monkeypatch.setattr(native, "FusedProblem", Longer)
    native._load.cache_clear()
    try:
        assert "another version" in native.load_error()
        assert torch.equal(dcnv3(**arguments()), dcnv3(**arguments(), backend="grid_sample"))
    finally:
        native._load.cache_clear()


def test_a_refusal_lists_every_reason(no_native_library):
    with pytest.raises(BackendError) as caught:
        dcnv3(**arguments(), backend="cpu")
    first, *rest = str(caught.value).splitlines()
    assert first == "backend 'cpu' does not take dcnv3 of (1, 3, 3, 4) float32 on cpu, groups=1"
    assert [line.split()[0] for line in rest] == [backend.name for backend in op.BACKENDS]
    assert "was not built" in rest[1]
    assert 'accepts; pass backend="grid_sample"' in rest[2] and 'accepts; pass backend="reference"' in rest[3]


def test_when_all_refuse_all_reasons_are_shown():
    def unused(*_):
        raise AssertionError("a backend that refused was called")

    first = Backend("first", lambda call: ["is too new", "is too loud"], unused)
    second = Backend("second", lambda call: [f"does not take {call.device_type}"], unused)
    with pytest.raises(BackendError) as caught:
        choose((first, second), CALL)
    assert str(caught.value).splitlines() == [
        "no backend takes dcnv3 of (2, 56, 56, 64) float32 on cpu, groups=4",
        "  first       is too new; is too loud",
        "  second      does not take cpu",
    ]


def test_an_unknown_backend_is_answered_with_the_names():
    with pytest.raises(
        BackendError, match="no backend 'cuda'; the backends are 'triton', 'cpu', 'grid_sample', 'reference'"
    ):
        dcnv3(**arguments(), backend="cuda")


def test_the_environment_names_a_backend(monkeypatch):
    monkeypatch.setenv("INTERNIMAGE_BACKEND", "reference")
    assert choose(op.BACKENDS, CALL).name == "reference"
    assert choose(op.BACKENDS, CALL, "grid_sample").name == "grid_sample", "the argument is nearer than the environment"
    monkeypatch.setenv("INTERNIMAGE_BACKEND", "")
    assert choose(op.BACKENDS, CALL).name in ("cpu", "grid_sample")


def test_an_unknown_backend_in_the_environment_is_refused(monkeypatch):
    monkeypatch.setenv("INTERNIMAGE_BACKEND", "fastest")
    with pytest.raises(BackendError, match="no backend 'fastest'.*INTERNIMAGE_BACKEND"):
        dcnv3(**arguments())


def test_a_backend_error_is_a_runtime_error():
    assert issubclass(BackendError, RuntimeError)


def test_importing_the_operators_loads_no_kernel():
    script = "import sys, internimage.ops; from internimage.ops import native\n"
    script += "assert native._load.cache_info().currsize == 0\nassert 'triton' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
