"""Evaluation preprocessing gives the recorded crops and statistics."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from internimage.data.transforms import Preprocessing
from tests.parity.recorded import cases, tensors
from tests.tolerances import tolerance

RUNS = [
    pytest.param(case, result, id=f"{case['name']}-{result['key']}")
    for case in cases("transforms/manifest.json")
    for result in case["results"]
    if (case["folder"] / case["image"]).is_file()
]


@pytest.mark.parametrize(("case", "result"), RUNS)
def test_preprocessing(case, result):
    with Image.open(case["folder"] / case["image"]) as picture:
        got = Preprocessing(image_size=result["img_size"], crop=result["test_crop"])(picture)
    want, key, size = tensors(case), result["key"], result["img_size"]
    middle = size // 2 - 12
    bound = tolerance("transforms", torch.float32)
    assert got.shape == (3, size, size)
    for name, part in {
        "topleft": got[:, :24, :24],
        "center": got[:, middle : middle + 24, middle : middle + 24],
        "bottomright": got[:, -24:, -24:],
        "grid": got[:, ::16, ::16],
    }.items():
        assert (part - want[f"{key}_{name}"]).abs().max().item() <= bound, name
    for name, statistic in (("mean", got.double().mean((1, 2))), ("std", got.double().std((1, 2), correction=0))):
        assert statistic.tolist() == pytest.approx(result[name], abs=1e-4), name
    for name, statistic in (("min", got.amin((1, 2))), ("max", got.amax((1, 2)))):
        assert statistic.tolist() == pytest.approx(result[name], abs=bound), name
