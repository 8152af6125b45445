"""Models too large to exist twice: made on the meta device, loaded a shard at a time, in their own dtype."""

from __future__ import annotations

import gc
import time
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import internimage
from internimage.models import InternImageClassifier
from internimage.weights import WeightsError, to_released
from internimage.weights.released import to_hugging_face
from tests.weights.small import H, T, classifier, same_bits
from tests.weights.test_forms import STYLES, write_folder


class Allocations(TorchDispatchMode):
    """Counts the bytes of new storages that are alive, at most, and the largest float32 tensor that is made."""

    def __init__(self):
        super().__init__()
        self.alive = self.peak = self.largest_float32 = 0
        self.seen = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(out):
            if not isinstance(tensor, torch.Tensor) or tensor.is_meta or "set_" in function.__name__:
                continue  # set_ lays a tensor over the file that is mapped
            if tensor.untyped_storage()._cdata not in given:
                self._count(tensor)
        return out

    def _count(self, tensor):
        storage = tensor.untyped_storage()
        size, key = storage.nbytes(), storage._cdata
        if tensor.dtype == torch.float32:
            self.largest_float32 = max(self.largest_float32, tensor.numel() * 4)
        if key not in self.seen:
            self.seen[key] = size
            self.alive += size
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._freed, key)

    def _freed(self, key):
        self.alive -= self.seen.pop(key, 0)


def size_of(model) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


@pytest.mark.parametrize("style", STYLES)
def test_a_bfloat16_model_is_filled_without_a_second_copy(style, tmp_path):
    source = classifier(H).to(torch.bfloat16)
    write_folder(tmp_path / "hub", to_hugging_face(to_released(source)), style)
    with torch.device("meta"):
        model = InternImageClassifier(H, 5).to(torch.bfloat16)
    gc.collect()
    with Allocations() as made:
        internimage.load_weights(model, tmp_path / "hub")
    state = source.state_dict()
    for name, tensor in model.state_dict().items():
        assert same_bits(tensor, state[name]), name
    largest = max(tensor.numel() * 2 for tensor in state.values())
    assert made.largest_float32 == 0
    assert made.peak <= size_of(model) + 2 * largest
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_nothing_of_the_file_is_kept_open(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"model": to_released(classifier())}, path)
    with torch.device("meta"):
        model = InternImageClassifier(T, 5)
    internimage.load_weights(model, path)
    path.write_bytes(b"\0" * path.stat().st_size)  # parameters that were still mapped from it would change
    assert torch.equal(model.head.fc.weight, classifier().head.fc.weight)


def test_float32_files_go_straight_into_a_bfloat16_model(tmp_path):
    source = classifier(T)
    torch.save({"model": to_released(source)}, tmp_path / "model.pth")
    with torch.device("meta"):
        model = InternImageClassifier(T, 5).to(torch.bfloat16)
    internimage.load_weights(model, tmp_path / "model.pth")
    assert same_bits(model.head.fc.weight, source.head.fc.weight.to(torch.bfloat16))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_what_a_file_leaves_out_gets_its_initial_value():
    source = to_released(classifier(num_classes=7))
    with torch.device("meta"):
        model = InternImageClassifier(T, 3)
    internimage.load_weights(model, source)
    assert model.head.fc.weight.std().item() == pytest.approx(0.02, rel=0.3) and not model.head.fc.bias.any()
    scaled = internimage.create_model(
        "internimage_t", device="meta", layer_scale=1.0, num_classes=7, channels=16, depths=T.depths, groups=T.groups
    )
    report = internimage.load_weights(scaled, source)
    assert "the same network" in str(report) and (scaled.backbone.levels[0].blocks[0].gamma1 == 1).all()
    del source["patch_embed.conv1.bias"]
    with torch.device("meta"):
        model = InternImageClassifier(T, 7)
    with pytest.raises(WeightsError, match="on the meta device"):
        internimage.load_weights(model, source, strict=False)


@pytest.mark.parametrize("name", ["internimage_h", "internimage_g"])
def test_the_largest_are_made_on_the_meta_device_in_a_second(name):
    def seconds():
        start = time.process_time()
        internimage.create_model(name, device="meta", dtype=torch.bfloat16)
        return time.process_time() - start

    assert min(seconds() for _ in range(2)) < 1.0
