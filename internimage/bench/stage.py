"""The benchmark on a card, in pieces that survive a cut: ``python -m internimage.bench.stage op FOLDER``.

Every finished piece is written at once, and the next call goes on behind it. It needs torch, Triton and, for networks,
timm; nothing has to be installed. One call takes less than nine minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from . import machine, op, peers, report, results, targets
from .shapes import AttentionShape, MapShape, Shape

LIMIT = 490.0  # seconds; no piece is begun that would probably end later
CUT = 515  # seconds, after which a piece is stopped
STARTED = time.monotonic()
FILES = {"op": "gpu-bench-op", "model": "gpu-bench-model"}

CLASSIFIER = tuple(MapShape(56 >> level, 56 >> level, 128 << level, 4 << level, 64) for level in range(4))
DETECTOR = (
    MapShape(200, 304, 128, 4),
    MapShape(100, 152, 256, 8, 2),
    MapShape(50, 76, 512, 16),
    MapShape(25, 38, 1024, 32, 2),
)
ATTENTION = (AttentionShape(800, 1216, 256, 8, 900), AttentionShape(800, 1216, 256, 8))
HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32
SECONDS = 0.5  # of timing for each shape and direction
MODELS, SWIN = ("internimage_t", "flash_internimage_t"), "swin_tiny_patch4_window7_224"
GRAPHS = (("internimage_t", 224), ("internimage_s", 224), ("internimage_b", 224)) + (
    ("internimage_l", 384),
    ("internimage_xl", 384),
)


@dataclasses.dataclass(frozen=True)
class Item:
    """A piece: what it adds to the results (lists are joined), and about how many seconds it takes on a card."""

    name: str
    run: Callable[[], results.Results]
    seconds: float


def operator_items(device: torch.device, seconds: float = SECONDS) -> Iterator[Item]:
    """The most important first: half precision at the largest shape, then the other shapes, then the other dtypes."""
    for dtype in (HALF, BRAIN, SINGLE):
        yield _ceilings(device, dtype)
    yield Item("host time", _host_time, 20)
    first: list[tuple[str, Shape]] = [("dcnv4", CLASSIFIER[0]), ("dcnv3", CLASSIFIER[0])]
    first += [("ms_deform_attn", shape) for shape in ATTENTION]
    rest: list[tuple[str, Shape]] = [
        (name, shape) for shape in (*CLASSIFIER[1:], *DETECTOR) for name in ("dcnv4", "dcnv3")
    ]
    for name, shape in (*first, *rest):
        yield _operator(name, shape, HALF, device, seconds, compiled=True)
    for dtype in (BRAIN, SINGLE):
        for index, (name, shape) in enumerate((*first, *rest)):
            yield _operator(name, shape, dtype, device, seconds, compiled=index == 0)


def _ceilings(device: torch.device, dtype: torch.dtype) -> Item:
    def run() -> results.Results:
        return {"ceilings": [dataclasses.asdict(machine.measure_ceilings(False, device, dtype))]}

    return Item(f"ceilings {_name(dtype)}", run, 8)


def _operator(
    name: str, shape: Shape, dtype: torch.dtype, device: torch.device, seconds: float, compiled: bool
) -> Item:
    def run() -> results.Results:
        skip = () if compiled else ("gs compiled", "per level compiled", "reference")
        setting = op.Setting(device, dtype, 1, seconds, peers.chosen(None), variants=False, skip=skip)
        return {"op": op.measure(op.chosen([name])[0], shape, setting)}

    return Item(f"{name} {shape} {_name(dtype)}", run, 35 if compiled else 12)


def _host_time() -> results.Results:
    """What a call costs the host above an empty launch."""
    return {"host_time": importlib.import_module(f"{__package__}.host_time").measure()}


def model_items(device: torch.device) -> Iterator[Item]:
    """Compiled inference at batch 128, single images from CUDA graphs, then the training step."""
    yield _ceilings(device, BRAIN)
    yield _models(f"classify 128 {_name(BRAIN)}", MODELS, 128, 224, device, 200, peers=(SWIN,), compiled=True)
    for name, side in GRAPHS:
        yield _models(f"{name} 1x{side} graph", (name,), 1, side, device, 25, graphs=True)
    yield _models("train 128", (MODELS[0],), 128, 224, device, 220, peers=(SWIN,), compiled=True, train=True)
    yield _models("train 128 flash", (MODELS[1],), 128, 224, device, 220, peers=(SWIN,), compiled=True, train=True)


def _models(
    title: str, names: Sequence[str], batch: int, side: int, device: torch.device, seconds: float, **options: Any
) -> Item:
    def run() -> results.Results:
        from . import images, model, network_runs  # torchvision and timm are needed from here on

        found = options
        if options.get("peers"):
            from . import networks

            found = {**options, "peers": tuple(p for p in options["peers"] if networks.chosen_peers(None))}
        setting = network_runs.Setting(device, BRAIN, variants=(), **found)
        return {"runs": [model.measure(names, images.Size(batch, side, side, 20), setting)]}

    return Item(title, run, seconds)


def run(
    stage: str,
    items: Sequence[Item],
    folder: Path,
    device: torch.device,
    limit: float = LIMIT,
    clock: Callable[[], float] = lambda: time.monotonic() - STARTED,
    say: Callable[[str], None] = print,
) -> int:
    """Run the pieces that are not finished yet, while there is time.

    Args:
        folder: gets ``gpu-bench-STAGE.json`` and a page of tables beside it.
        clock: seconds since this call began.

    Returns:
        0 when nothing failed, pieces that wait for the next call included; 1 otherwise.
    """
    path = folder / f"{FILES[stage]}.json"
    found = _take_up(path, stage, device, say)
    for item in items:
        if _is_finished(found, item.name):
            continue
        if clock() + item.seconds > limit:
            say(f"no time for {item.name}: run the same command again")
            continue
        say(f"{clock():4.0f} s  {item.name}")
        began = clock()
        part, failure = _attempt(item, max(1, round(CUT - clock())))
        _merge(found, part)
        found["items"][item.name] = {"seconds": round(clock() - began, 1), "failed": failure}
        if failure:
            say(f"        failed: {failure}")
        _write(found, path, stage, device)
    return _conclude(found, items, path, say)


def _take_up(path: Path, stage: str, device: torch.device, say: Callable[[str], None]) -> results.Results:
    """What an earlier call of the same code on the same card wrote, or an empty file."""
    found = results.begin(f"make gpu-bench-{stage}", device, False, {"device": str(device), "threads": 1})
    found |= {"stage": stage, "source": machine.source_digest(), "items": {}}
    if path.exists():
        earlier = results.read(path)
        if _origin(earlier) == _origin(found):
            say(f"goes on with {path}: {len(earlier['items'])} pieces are there")
            return earlier
        kept = path.with_name(f"{path.stem}-{earlier.get('source') or 'earlier'}.json")
        path.replace(kept)
        say(f"{path} is of other code, another card or another torch: kept as {kept.name}, measured anew")
    return found


def _origin(found: results.Results) -> tuple[Any, ...]:
    card = found["machine"]["device"] or {}
    return found.get("stage"), found.get("source"), card.get("name"), found["versions"].get("torch")


def _is_finished(found: results.Results, name: str) -> bool:
    return name in found["items"] and not found["items"][name]["failed"]


def _attempt(item: Item, seconds: int) -> tuple[results.Results, str | None]:
    """What the piece gives, or in one line why not."""
    try:
        with _alarm(seconds):
            return item.run(), None
    except Exception as error:  # the other pieces go on
        return {}, f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


@contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    """TimeoutError after so many seconds, where the system has alarms."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def ring(*_: Any) -> None:
        raise TimeoutError(f"stopped after {seconds} s; the next call tries again")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _merge(found: results.Results, part: results.Results) -> None:
    """Lists are joined; networks stand where the tables look for them."""
    for key, value in part.items():
        if key == "runs":
            model = found.setdefault("model", {"runs": [], "memory": [], "where_time_goes": []})
            model["runs"] += value
        elif isinstance(value, list):
            found[key] = found.get(key, []) + value
        else:
            found[key] = value


def _write(found: results.Results, path: Path, stage: str, device: torch.device) -> None:
    kind = "cuda" if found["machine"]["device"] else device.type
    half = next((c for c in found.get("ceilings", []) if c["dtype"] == _name(HALF)), None)
    copy = half["memory_gbytes_per_s"] if half else None
    found["targets"] = targets.of_operators(found.get("op", []), kind, copy)
    found["targets"] += targets.of_host_time(found.get("host_time"))
    found["targets"] += targets.of_models(found.get("model", {}).get("runs", []), [], kind)
    results.write(found, path)
    results.write_text(report.markdown(found), path.with_suffix(".md"))


def _conclude(found: results.Results, items: Sequence[Item], path: Path, say: Callable[[str], None]) -> int:
    waiting = [item.name for item in items if item.name not in found["items"]]
    failed = [name for name, state in found["items"].items() if state["failed"]]
    done = len(items) - len(waiting) - len(failed)
    say(f"{done} of {len(items)} pieces done, {len(failed)} failed, {len(waiting)} left for the next call: {path}")
    return 1 if failed else 0


def main(words: Sequence[str] | None = None) -> int:
    """The command; without a card it says so, and its exit status is 1."""
    parser = argparse.ArgumentParser(prog="python -m internimage.bench.stage", description=__doc__)
    parser.add_argument("stage", choices=FILES)
    parser.add_argument("folder", type=Path, help="for the results")
    parser.add_argument("--peers-from", type=Path, help="a folder of unpacked packages, or of folders of them")
    asked = parser.parse_args(words)
    if not torch.cuda.is_available():
        print(f"gpu-bench-{asked.stage}: torch {torch.__version__} finds no CUDA card here; nothing was measured")
        return 1
    if asked.peers_from:
        add_peers(asked.peers_from)
    device = torch.device("cuda", torch.cuda.current_device())
    items = list(operator_items(device) if asked.stage == "op" else model_items(device))
    return run(asked.stage, items, asked.folder, device)


def add_peers(folder: Path) -> None:
    """Let packages be imported from the folder and from the folders in it.

    Raises:
        ValueError: there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"--peers-from {folder} is no folder; expected one that holds unpacked wheels")
    sys.path += [str(path) for path in (folder, *sorted(folder.iterdir())) if path.is_dir()]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    sys.exit(main())
