"""Training files load without their libraries, and nothing in a file is ever run."""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

import internimage
from internimage.weights import WeightsError, architecture_of, open_checkpoint, to_released
from internimage.weights.inert import read_pickle
from tests.weights.small import assert_same_state, classifier

# A stand-in for yacs, of the same kind: a dict with settings of its own, which pickle stores beside the items.
YACS = """
class CfgNode(dict):
    def __init__(self, items=None):
        super().__init__({k: CfgNode(v) if isinstance(v, dict) else v for k, v in (items or {}).items()})
        self.__dict__.update(__immutable__=True, __deprecated_keys__=set(), __renamed_keys__={}, __new_allowed__=False)
    def __getattr__(self, name):
        if name in self:
            return self[name]
        raise AttributeError(name)
    def __setattr__(self, name, value):
        raise AttributeError("immutable")
"""
WRITER = """
import argparse, sys, torch
from yacs.config import CfgNode
file = torch.load(sys.argv[1], weights_only=True)
file["config"] = CfgNode({"MODEL": {"NAME": "x", "INTERN_IMAGE": {
    "CHANNELS": 16, "DEPTHS": [1, 1, 2, 1], "GROUPS": [1, 2, 4, 8], "LAYER_SCALE": None, "CORE_OP": "DCNv3"}}})
file["args"] = argparse.Namespace(lr=0.1, nested=CfgNode({"a": 1}))
torch.save(file, sys.argv[2])
"""


@pytest.fixture(scope="module")
def with_yacs(tmp_path_factory) -> Path:
    """A file with a ``CfgNode`` in it, written by another process that has such a class; this one has none."""
    folder = tmp_path_factory.mktemp("yacs")
    (folder / "yacs").mkdir()
    (folder / "yacs" / "config.py").write_text(YACS)
    (folder / "yacs" / "__init__.py").write_text("")
    torch.save({"model": to_released(classifier()), "epoch": 299}, folder / "plain.pth")
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", WRITER, str(folder / "plain.pth"), str(folder / "train.pth")]
    subprocess.run(command, check=True, env=environment, timeout=300)
    return folder / "train.pth"


def test_a_yacs_configuration_becomes_plain_dicts(with_yacs):
    source, model = classifier(), classifier(seed=1)
    contents = read_pickle(with_yacs)
    assert contents["config"]["MODEL"]["INTERN_IMAGE"]["DEPTHS"] == [1, 1, 2, 1]
    assert contents["args"] == {"lr": 0.1, "nested": {"a": 1}}
    for node in (contents["config"], contents["config"]["MODEL"], contents["args"], contents["args"]["nested"]):
        assert type(node) is dict
    assert internimage.load_weights(model, with_yacs).complete
    assert_same_state(model.state_dict(), source.state_dict())
    assert "yacs" not in sys.modules


def test_the_configuration_beside_the_weights_tells_the_architecture(with_yacs):
    assert architecture_of(open_checkpoint(with_yacs)) == (classifier().config, 5)


BESIDE = {
    "numpy scalars": {"a": np.float64(83.5), "b": np.float32(2), "c": np.int64(-3), "d": np.bool_(True)},
    "numpy array": {
        "a": np.arange(6, dtype=np.int16).reshape(2, 3),
        "b": np.zeros((0, 2)),
        "c": np.float64([[1, 2], [3, 4]]).T,
    },
    "big endian": {"a": np.arange(3, dtype=">f4")},
    "strings": {"a": np.array(["car", "cat"])},
    "namespace": argparse.Namespace(lr=1e-4, opts=["A", 1], inner=argparse.Namespace(x=None)),
    "empty namespace": argparse.Namespace(),
    "ordered dict": OrderedDict(z=1, a=OrderedDict(y=2)),
    "dtypes": {"a": np.dtype("float32"), "b": np.float16, "c": torch.float32, "d": torch.Size([1, 2])},
    "plain": {"a": None, "b": (1, 2.5, "x"), "c": [True], "d": {1, 2}, "e": b"bytes", "f": -(2**70), "g": "ü"},
}


def plain(value):
    """What is expected of a thing beside the weights."""
    if isinstance(value, argparse.Namespace):
        return {name: plain(item) for name, item in vars(value).items()}
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value.item() if isinstance(value, np.generic) else value


@pytest.mark.parametrize("old_format", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_what_lies_beside_the_weights(beside, old_format, tmp_path):
    source, model = classifier(), classifier(seed=1)
    path = tmp_path / "train.pth"
    torch.save({"model": to_released(source), "beside": beside}, path, _use_new_zipfile_serialization=not old_format)
    read = read_pickle(path)["beside"]
    np.testing.assert_equal(read, plain(beside))
    assert type(read) is dict
    assert internimage.load_weights(model, path).complete
    assert_same_state(model.state_dict(), source.state_dict())


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class SomeClass:
    """Harmless, but not data."""


def touch(path):
    Path(path).touch()


MALICE = {
    "shell": lambda target: Runs(os.system, f"touch {target}"),
    "eval": lambda target: Runs(eval, f"open({str(target)!r}, 'w').close()"),
    "import": lambda target: Runs(__import__, "antigravity"),
    "open": lambda target: Runs(open, str(target), "w"),
    "own function": lambda target: Runs(touch, str(target)),
    "subprocess": lambda target: Runs(subprocess.check_call, ["touch", str(target)]),
}


@pytest.mark.parametrize("old_format", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("malice", MALICE.values(), ids=MALICE)
def test_a_malicious_file_is_refused_by_name_and_not_run(malice, old_format, tmp_path):
    path, target = tmp_path / "bad.pth", tmp_path / "was_run"
    thing = malice(target)
    with open(path, "wb") as file:
        torch.save(
            {"model": to_released(classifier()), "x": thing}, file, _use_new_zipfile_serialization=not old_format
        )
    model = classifier(seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        WeightsError, match=f"refused: it asks for .*{thing.call[0].__name__}.*nothing in the file was run"
    ):
        internimage.load_weights(model, path)
    assert not target.exists()
    assert_same_state(model.state_dict(), before)


@pytest.mark.parametrize(
    "thing",
    [SomeClass(), Path("x"), np.array([SomeClass()], dtype=object), np.zeros(2, dtype=[("a", "f4")]), slice(1)],
    ids=["class", "path", "object array", "record array", "slice"],
)
def test_other_classes_are_refused(thing, tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"model": to_released(classifier()), "x": thing}, path)
    with pytest.raises(WeightsError, match="refused: it asks for|not numbers or strings"):
        read_pickle(path)


def test_names_are_allowed_only_while_a_file_is_read(tmp_path):
    path = tmp_path / "train.pth"
    torch.save({"args": argparse.Namespace(a=1)}, path)
    read_pickle(path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


def test_shared_containers_stay_shared_and_circles_are_refused(tmp_path):
    value: list = ["x"]
    for _ in range(60):  # 2**60 items when each use is copied
        value = [value, value]
    torch.save({"a": torch.ones(1), "b": value}, tmp_path / "wide.pth")
    read = read_pickle(tmp_path / "wide.pth")["b"]
    assert read[0] is read[1]
    circle: list = []
    circle.append(circle)
    torch.save({"b": circle}, tmp_path / "circle.pth")
    with pytest.raises(WeightsError, match="contains itself"):
        read_pickle(tmp_path / "circle.pth")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_plain_pickle_is_refused_by_name_and_not_run(protocol, tmp_path, recwarn):
    path, target = tmp_path / "bomb.pkl", tmp_path / "was_run"
    path.write_bytes(pickle.dumps({"model": {}, "x": MALICE["shell"](target)}, protocol))
    with pytest.raises(WeightsError, match=f"refused: it asks for {os.system.__module__}.system, which is not data"):
        read_pickle(path)
    assert not target.exists() and not recwarn.list


@pytest.mark.parametrize(
    "contents",
    [
        b"not a checkpoint",
        b"elephants",
        b"<html>404</html>",
        b"\xff\xd8\xff\xe0\0\x10JFIF",
        b"PK\x03\x04 cut short",
        b"\x80\x02}q",
        pickle.dumps({"a": 1}, 4),
    ],
    ids=str,
)
def test_damaged_files(contents, tmp_path):
    path = tmp_path / "damaged.pth"
    path.write_bytes(contents)
    with pytest.raises(WeightsError, match="damaged.pth .* it is damaged, or torch.save did not write it$"):
        internimage.load_weights(classifier(), path)


def test_an_empty_file(tmp_path):
    (tmp_path / "empty.pth").touch()
    with pytest.raises(WeightsError, match="empty.pth is empty"):
        internimage.load_weights(classifier(), tmp_path / "empty.pth")


def test_a_file_that_holds_no_mapping(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds a list"):
        internimage.load_weights(classifier(), tmp_path / "list.pth")
