"""The iNaturalist model: what date and place add to the logits of the image."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import internimage
from internimage.data.metadata import spatial_vector, temporal_vector
from internimage.explain import sampling_points
from internimage.features import extract
from internimage.models import InternImageClassifier
from internimage.weights import to_released
from tests.models.variants import TINY, images, make, with_offsets
from tests.tolerances import assert_close

SMALL = {**TINY, "level2_post_norm_block_ids": (0,), "num_classes": 6}
TEMPORAL = torch.stack([temporal_vector("2018-05-20"), temporal_vector(None)])
SPATIAL = torch.stack([spatial_vector(-33.9, 151.2), spatial_vector(48.1, 11.6)])


def metadata_model(**more) -> InternImageClassifier:
    """A small one with a value of its own in every parameter of the branch."""
    torch.manual_seed(0)
    model = with_offsets(internimage.create_model("internimage_h_meta", **{**SMALL, **more})).eval()
    generator = torch.Generator().manual_seed(3)
    for parameter in model.metadata.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return model


# The branch in plain loops over Python floats, by released names. No tensors of the released branch were recorded.


def linear(x: list[float], state: dict[str, Tensor], name: str) -> list[float]:
    weight, bias = state[f"{name}.weight"].tolist(), state[f"{name}.bias"].tolist()
    return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]


def norm(x: list[float], state: dict[str, Tensor], name: str, eps: float) -> list[float]:
    mean = sum(x) / len(x)
    spread = math.sqrt(sum((v - mean) ** 2 for v in x) / len(x) + eps)
    weight, bias = state[f"{name}.weight"].tolist(), state[f"{name}.bias"].tolist()
    return [(v - mean) / spread * w + b for v, w, b in zip(x, weight, bias, strict=True)]


def relu(x: list[float]) -> list[float]:
    return [max(v, 0.0) for v in x]


def encoded(x: list[float], state: dict[str, Tensor], name: str) -> list[float]:
    x = norm(relu(linear(x, state, f"{name}.0")), state, f"{name}.2", 1e-5)
    a = norm(relu(linear(x, state, f"{name}.3.w1")), state, f"{name}.3.norm_fn1", 1e-5)
    b = norm(relu(linear(a, state, f"{name}.3.w2")), state, f"{name}.3.norm_fn2", 1e-5)
    return [u + v for u, v in zip(x, b, strict=True)]


def plain_branch(model: InternImageClassifier, temporal: Tensor, spatial: Tensor) -> Tensor:
    state = {key: tensor.double() for key, tensor in to_released(model).items() if key.startswith("meta_")}
    rows = []
    for when, where in zip(temporal.tolist(), spatial.tolist(), strict=True):
        both = encoded(when, state, "meta_head_1") + encoded(where, state, "meta_head_2")
        rows.append(linear(norm(both, state, "meta_norm", 1e-6), state, "meta_head"))
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_logits_are_those_of_the_image_plus_those_of_the_branch(dtype):
    model = metadata_model().to(dtype)
    x = images().to(dtype)
    with torch.no_grad():
        got = model(x, TEMPORAL, SPATIAL) - model.forward_head(model.forward_features(x))
    assert_close(got, plain_branch(model, TEMPORAL.to(dtype), SPATIAL.to(dtype)), "module")


def test_norms_of_the_branch_have_the_released_eps():
    """Of 1e-5 and 1e-6 the outputs of ordinary size tell little: here the branch sees almost constant vectors."""
    model = metadata_model().double()
    with torch.no_grad():
        for name, parameter in model.metadata.named_parameters():
            if "norm" in name:
                continue
            parameter.mul_(1e-3)
        got = model.metadata(TEMPORAL, SPATIAL, 2)
    assert_close(got, plain_branch(model, TEMPORAL.double(), SPATIAL.double()), "module")


def test_what_is_unknown_is_zeros():
    model, x = metadata_model(), images()
    zeros = torch.zeros(2, 4), torch.zeros(2, 3)
    with torch.no_grad():
        assert torch.equal(model(x), model(x, *zeros))
        assert torch.equal(model(x, TEMPORAL), model(x, TEMPORAL, zeros[1]))
        assert torch.equal(model(x, spatial=SPATIAL), model(x, zeros[0], SPATIAL))
        assert not torch.allclose(model(x), model(x, TEMPORAL, SPATIAL))


@pytest.mark.parametrize("given", ["all", "nothing"])
def test_every_parameter_has_a_gradient(given):
    model = metadata_model().train()
    model(images(), *((TEMPORAL, SPATIAL) if given == "all" else ())).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_vector_of_another_shape_is_named():
    model = metadata_model()
    with pytest.raises(ValueError, match=r"temporal has shape \(2, 3\), expected \(2, 4\)"):
        model(images(), SPATIAL, SPATIAL)
    with pytest.raises(ValueError, match=r"spatial has shape \(1, 3\), expected \(2, 3\)"):
        model(images(), None, SPATIAL[:1])


def test_other_models_refuse_date_and_place():
    with pytest.raises(ValueError, match="one has none"):
        make()(images(), TEMPORAL)


def test_it_is_internimage_h_with_8142_classes_and_the_branch():
    model = internimage.create_model("internimage_h_meta", device="meta")
    image_only = internimage.create_model("internimage_h", num_classes=8142, device="meta")
    assert (model.num_classes, model.default_cfg["input_size"]) == (8142, (3, 384, 384))
    added = set(model.state_dict()) - set(image_only.state_dict())
    assert added == {name for name in model.state_dict() if name.startswith("metadata.")} and len(added) == 28
    want = 2 * (2 * (64 * 64 + 64) + 3 * 2 * 64) + (4 + 1) * 64 + (3 + 1) * 64 + 2 * 128 + 129 * 8142
    counts = [sum(parameter.numel() for parameter in m.parameters()) for m in (model, image_only)]
    assert counts[0] - counts[1] == want


@pytest.mark.parametrize("family", ["internimage_t", "flash_internimage_t"])
def test_any_network_can_have_the_branch(family):
    model = internimage.create_model(family, use_metadata=True, num_classes=3, **TINY).eval()
    assert model(images(), TEMPORAL, SPATIAL).shape == (2, 3)


def test_a_fresh_classifier_is_fresh_in_both_parts():
    model = metadata_model()
    encoder = model.metadata.temporal.fc0.weight
    model.reset_classifier(4)
    assert model.metadata.temporal.fc0.weight is encoder, "what the branch has learned of dates stays"
    assert model(images(), TEMPORAL, SPATIAL).shape == (2, 4)
    model.reset_classifier(0)
    assert model.metadata is None and model(images()).shape == (2, 768)
    model.double().reset_classifier(2)
    assert model(images().double(), TEMPORAL, SPATIAL).dtype == torch.float64
    assert internimage.create_model("internimage_h_meta", **{**SMALL, "num_classes": 0}).metadata is None


def test_without_pooling_date_and_place_count_at_every_position():
    model = metadata_model(global_pool="")
    with torch.no_grad():
        got, image_only = model(images(), TEMPORAL, SPATIAL), model.forward_head(model.forward_features(images()))
        added = model.metadata(TEMPORAL, SPATIAL, 2)
    assert got.shape == (2, 6, 4, 4)
    assert_close(got - image_only, added[..., None, None].expand_as(got), "model")


def test_features_and_drawings_of_where_it_looks_need_no_metadata():
    model, x = metadata_model(), images(1)
    found = extract(model, x, ["stage4", "metadata", "head"])
    assert found["metadata"].shape == found["head"].shape == (1, 6)
    assert sampling_points(model, x, stage=2).points.shape[0] == model.config.groups[1]
    backbone = internimage.create_model("internimage_h_meta", features_only=True, out_indices=(1, 3), **TINY_LEVELS)
    assert [m.shape[1] for m in backbone(x)] == [32, 128]


TINY_LEVELS = {key: value for key, value in SMALL.items() if key != "num_classes"}


def test_it_exports_with_and_without_metadata():
    model, x = metadata_model(), images()
    for inputs in ((x,), (x, TEMPORAL, SPATIAL)):
        program = torch.export.export(model, inputs).module()
        with torch.no_grad():
            assert_close(program(*inputs), model(*inputs), "model")
