"""Whole networks on a card against the reference operator in float64, and a training step."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import internimage
from tests.models.variants import make, with_offsets
from tests.tolerances import relative_error, tolerance

NAMES = ["internimage_t", "flash_internimage_t"]


def exact(model: nn.Module, images: Tensor, monkeypatch) -> Tensor:
    """By the reference, in float64."""
    monkeypatch.setenv("INTERNIMAGE_BACKEND", "reference")
    output = copy.deepcopy(model).double()(images.double())
    monkeypatch.delenv("INTERNIMAGE_BACKEND")
    return output


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_the_reference(card, name, dtype, monkeypatch):
    model = with_offsets(internimage.create_model(name), std=0.01).eval().cuda()
    images = torch.randn(2, 3, 128, 96, device="cuda").to(dtype)
    with torch.no_grad():
        model.to(dtype)
        want = exact(model, images, monkeypatch)
        got = model(images)
    assert relative_error(got, want) < 3 * tolerance("model", dtype)  # thirty blocks, where the table has five


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_the_reference(card, name, monkeypatch):
    model = with_offsets(internimage.create_model(name, drop_path_rate=0.0), std=0.01).cuda()
    images = torch.randn(2, 3, 64, 64, device="cuda")
    precise = copy.deepcopy(model).double()
    monkeypatch.setenv("INTERNIMAGE_BACKEND", "reference")
    precise(images.double()).square().sum().backward()
    monkeypatch.delenv("INTERNIMAGE_BACKEND")
    model(images).square().sum().backward()
    for (key, a), (_, b) in zip(model.named_parameters(), precise.named_parameters(), strict=True):
        if a.grad is None or ".offset" in key:  # those jump where float32 picks another cell
            continue
        if b.grad.abs().max() > 1e-9:  # the shift before a norm that takes it out again has none
            assert relative_error(a.grad, b.grad) < tolerance("model gradient"), key


@pytest.mark.parametrize("name", NAMES)
def test_learns_in_bfloat16(card, name):
    torch.manual_seed(0)
    model = internimage.create_model(name, num_classes=4, drop_path_rate=0.0).cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)
    images, labels = torch.randn(8, 3, 64, 64, device="cuda"), torch.arange(8, device="cuda") % 4
    losses = []
    for _ in range(20):
        with torch.autocast("cuda", torch.bfloat16):
            loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0], losses


@pytest.mark.parametrize("family", ["t", "flash_t"])
def test_a_small_network(device, family, monkeypatch):
    """Runs in the interpreter, too."""
    model = make(family).to(device)
    images = torch.randn(1, 3, 32, 32).to(device)
    with torch.no_grad():
        want = exact(model, images, monkeypatch)
        monkeypatch.setenv("INTERNIMAGE_BACKEND", "triton")
        got = model(images)
    assert relative_error(got, want) < tolerance("model", torch.float32)
