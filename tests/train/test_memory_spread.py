"""The plan against what each of two processes holds: every strategy, one start for each."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from internimage.planning.budget import Setting, budget

from .test_memory import SMALL, WITHIN
from .test_spread import OFFLOADED, ROOT, SPREAD

CASES = [
    *((strategy, False, 1, "float32") for strategy in SPREAD),
    *((strategy, True, 1, "float32") for strategy in OFFLOADED),
    *((strategy, False, 2, "float32") for strategy in SPREAD),
    *((strategy, False, 1, "bfloat16") for strategy in SPREAD),
]


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "offload", "accumulation", "dtype"), CASES)
def test_each_of_two_processes_holds_what_the_plan_says(tmp_path, strategy, offload, accumulation, dtype):
    """On the device and, offloaded, on the host: here they are one."""
    setting = Setting(
        model="internimage_b",
        changes=tuple(SMALL.items()),
        num_classes=10,
        batch_size=8 * accumulation,
        image_size=64,
        dtype=dtype,
        average=True,
        accumulation=accumulation,
        processes=2,
        strategy=strategy,
        offload=offload,
        device="cpu",
    )
    for held in measured(tmp_path, setting):
        estimate = budget(setting)
        assert estimate.total + estimate.host == pytest.approx(held, rel=WITHIN)


def measured(folder: Path, setting: Setting) -> list[int]:
    """Bytes, of each process."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(setting.processes)]
    script = ["-m", "tests.train.held_run", str(folder), json.dumps(asdict(setting))]
    done = subprocess.run([sys.executable, *launch, *script], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-4000:]
    return [int((folder / f"{rank}.json").read_text()) for rank in range(setting.processes)]
