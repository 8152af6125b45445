"""What the benchmark's tests share: results of nothing measured, and networks of a few thousand parameters."""

from __future__ import annotations

import dataclasses

import pytest

from internimage.bench import networks
from internimage.bench.operators import OURS
from internimage.bench.targets import target
from internimage.bench.timing import Figures
from internimage.bench.work import BOTH, FORWARD

FIGURES = dataclasses.asdict(Figures(2.0, 1.5, 3.0, 1.0, 7))


def _row(direction, **more):
    forms = {
        OURS: {**FIGURES, "error": 1e-6, "extra_bytes": 0},
        "gs": {**FIGURES, "min_ms": 9.0, "error": 2e-6, "extra_bytes": 3 * 2**20},
        "reference": {**FIGURES, "min_ms": 40.0, "error": 0.0, "extra_bytes": None},
    }
    row = {
        "operator": "dcnv4",
        "shape": "56x56x128/4",
        "dtype": "float32",
        "left_out": {"DCNv4": "not installed"},
        "direction": direction,
        "forms": forms,
        "variants": {"avx2": {**FIGURES, "error": 0.0}, "bfloat16": {**FIGURES, "min_ms": 0.5, "error": 0.0}},
        "flop": 100,
        "tensor_bytes": 20,
        "corner_bytes": 200,
        "gflops": 30.0,
        "gbytes_per_s": 5.0,
        "corner_gbytes_per_s": 50.0,
    }
    return {**row, **more}


def _network(label, over, own=None):
    name, _, variant = label.partition(" ")
    return {
        **{"network": label, "model": name, "variant": variant or None, **FIGURES, "images_per_s": 500.0},
        **{"gflop": 10.0, "gflops": 50.0 if variant != "free operator" else None, "peak_bytes": 2**20},
        **{"released_images_per_s": None, "over_baseline": over, "over_baseline_cpu_time": over},
        **{"over_own": own, "over_own_cpu_time": own},
    }


@pytest.fixture
def results():
    """A results file with everything in it; each test gets its own."""
    kinds = ("matrix products", "operator", "convolutions", "norms and activations", "casts and copies")
    return {
        "schema": 2,
        "command": "internimage bench",
        "date": "2026-11-25T12:00:00+00:00",
        "commit": None,
        "machine": {
            "device": None,
            "cpu": "A & B <cpu>",
            "cores": 2,
            "system": "Linux",
            "caches": {"L2": 2**20},
            "load_average": 0.3,
            "instruction_set": "avx2",
        },
        "versions": {"internimage": "1", "torch": "3"},
        "quick": False,
        "setting": {"threads": 1},
        "op": [_row(FORWARD), _row(BOTH), _row(FORWARD, operator="ms_deform_attn", shape="800x1216x256/8@900")],
        "peers": {"torchvision": "0.30", "mmcv": "not installed"},
        "ceilings": [{"dtype": "float32", "gflops": 100.0, "memory_gbytes_per_s": 10.0, "l2_gbytes_per_s": 80.0}],
        "model": {
            "runs": [
                {
                    **{"task": "classify", "batch": 1, "size": [224, 224], "dtype": "float32"},
                    **{"precision": "float32", "pairs": 3, "errors": {"internimage_t": 1e-6}},
                    **{"left_out": {"resnet50": "does not take it"}, "baseline": "convnext_tiny"},
                    "rows": [
                        _network("internimage_t", 1.15),
                        _network("internimage_t on grid_sample", 2.2, 1.9),
                        _network("internimage_t free operator", 1.05, 0.9),
                        _network("convnext_tiny", 1.0),
                    ],
                }
            ],
            "memory": [
                {"size": [8, 8], "network": "internimage_t", "resident_bytes": None, "allocated_bytes": 3 * 2**20},
                {"size": [8, 8], "network": "convnext_tiny", "resident_bytes": 2048, "allocated_bytes": 512},
            ],
            "where_time_goes": [
                {
                    **{"network": "internimage_t", "batch": 1, "dtype": "float32"},
                    "ms": dict.fromkeys((*kinds, "Python and the rest"), 1.5),
                }
            ],
        },
        "targets": [target("classify", "<=", 1.2, 1.3, free=1.1), target("dcnv4", ">=", 8.0, 9.0, aim=12.0)],
        "compare": {
            "ref": "main",
            "commit": "abc",
            "rows": [
                {"what": "dcnv4", "this_ms": 1.0, "ref_ms": 2.0, "ratio": 2.0, "left_out": None},
                {"what": "dcnv5", "this_ms": None, "ref_ms": None, "ratio": None, "left_out": "ref: unknown"},
            ],
        },
    }


@pytest.fixture
def small_networks(monkeypatch):
    """InternImage and ConvNeXt of a few thousand parameters under the names of the real ones."""
    make = networks.create_model
    small = {"in_chans": 3, "channels": 16, "groups": (1, 2, 4, 8), "depths": (1, 1, 1, 1)}

    def made(name, **more):
        core = {"core_op": "DCNv4"} if name.startswith("flash") else {}
        return make("internimage_femto", **small, **core, **more)

    monkeypatch.setattr(networks, "create_model", made)
    if networks.chosen_peers(None):
        import timm

        make_timm = timm.create_model
        monkeypatch.setattr(timm, "create_model", lambda name, **more: make_timm("convnext_atto", **more))
