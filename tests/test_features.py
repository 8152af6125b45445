"""Extracting what modules compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from internimage.features import extract, layer_names, save_features
from tests.small_model import small_model
from tests.tolerances import assert_close

IMAGE = torch.rand(1, 1, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    return small_model()


def test_stages_are_the_maps_of_the_backbone(model):
    got = extract(model, IMAGE, ["stage1", "c3", "stage4"])
    with torch.no_grad():
        maps = model.backbone(IMAGE)
    assert list(got) == ["stage1", "c3", "stage4"]
    for tensor, want in zip(got.values(), (maps[0], maps[1], maps[3]), strict=True):
        assert_close(tensor, want, "model")


def test_any_module_by_its_name(model):
    name = "backbone.levels.2.blocks.0.dcn"
    got = extract(model, IMAGE, [name, name.removeprefix("backbone."), "head"])
    assert got[name].shape == (1, 4, 6, 64)
    assert torch.equal(got[name], got["levels.2.blocks.0.dcn"])
    assert_close(got["head"], model(IMAGE), "model")


def test_a_bare_backbone_will_do(model):
    assert_close(extract(model.backbone, IMAGE, ["stage2"])["stage2"], model.backbone(IMAGE)[1], "model")


class Repeats(nn.Module):
    """Runs one part three times, another once, one never; one gives a tuple and one a dict."""

    def __init__(self):
        super().__init__()
        self.again, self.pair, self.named, self.never = nn.Linear(2, 2), Pair(), Named(), nn.Identity()

    def forward(self, x):
        for _ in range(3):
            x = self.again(x)
        return self.named(self.pair(x)[0])["x"]


class Pair(nn.Module):
    def forward(self, x):
        return x, x + 1


class Named(nn.Module):
    def forward(self, x):
        return {"x": x}


def test_a_module_that_runs_several_times_gives_several_entries():
    torch.manual_seed(0)
    module, x = Repeats(), torch.ones(1, 2)
    got = extract(module, x, ["again", "pair", "named"])
    assert list(got) == ["again#0", "again#1", "again#2", "pair.0", "pair.1", "named.x"]
    assert torch.equal(got["again#1"], module.again(module.again(x)))
    assert torch.equal(got["pair.1"], got["pair.0"] + 1)


def test_a_module_that_does_not_run_is_named():
    with pytest.raises(ValueError, match="'never' has no forward"):
        extract(Repeats(), torch.ones(1, 2), ["never"])


@pytest.mark.parametrize(
    ("layer", "near"),
    [("stage5", "stage"), ("backbone.levels.2.block.0", "blocks.0"), ("haed", "head"), ("", "stage1")],
)
def test_an_unknown_name_gets_the_nearest(model, layer, near):
    with pytest.raises(ValueError, match=near):
        extract(model, IMAGE, [layer])


def test_nothing_asked_for_is_an_error(model):
    with pytest.raises(ValueError, match="no layers"):
        extract(model, IMAGE, [])


def test_hooks_are_gone_afterwards(model):
    with pytest.raises(ValueError):
        extract(model, IMAGE[:, :, :, 0], ["stage1"])
    extract(model, IMAGE, ["stage1"])
    assert not any(module._forward_hooks for module in model.modules())


def test_every_listed_name_is_a_layer(model):
    names = layer_names(model)
    assert names[:4] == ["stage1", "stage2", "stage3", "stage4"] and "head.fc" in names
    assert len(names) == len(set(names))


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_saved_tensors_come_back(tmp_path, suffix):
    features = {"a#0": torch.rand(2, 3).T, "b.c": torch.ones(2, dtype=torch.bfloat16)}
    path = tmp_path / "new" / f"features{suffix}"
    save_features(features, path)
    got = load_file(path) if suffix == ".safetensors" else {k: torch.from_numpy(v) for k, v in np.load(path).items()}
    assert got.keys() == features.keys()
    assert all(torch.equal(got[name].float(), features[name].float()) for name in features)
    assert [file.name for file in path.parent.iterdir()] == [path.name], "no temporary file is left"


def test_another_suffix_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"\.safetensors or \.npz"):
        save_features({}, tmp_path / "features.pth")
    assert not list(tmp_path.iterdir())
