"""Whole networks: InternImage beside timm's, and beside itself with another operator, all in turns."""

from __future__ import annotations

import copy
import dataclasses
import gc
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import list_models
from . import breakdown, counting, networks
from .gate import Disagreement, require
from .labels import BASELINE, COMPILED, GRAPH, RELEASED_IMAGES_PER_S, VARIANTS, split_label
from .memory import peak_allocation
from .networks import Network
from .op import require_kernel
from .timing import Candidate, Clock, Sample, clock_of, figures, median_ratio, paired_samples, threads

OURS = ("internimage_t", "flash_internimage_t")
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 6e-2, torch.float16: 1e-2, torch.float64: 1e-9}
"""Of the largest value, through thirty blocks whose offsets shift with the rounding before them."""
CLASSIFY, FEATURES, TRAIN = "classify", "features", "train"


@dataclass(frozen=True)
class Size:
    """Images (batch, 3, height, width), so many pairs of runs, and whether feature extractors take them."""

    batch: int
    height: int
    width: int
    pairs: int
    features: bool = False

    def __str__(self) -> str:
        return f"{self.batch}x{self.height}x{self.width}"


SETS = {
    "224": (Size(1, 224, 224, 21),),
    "8x224": (Size(8, 224, 224, 7),),
    "128x224": (Size(128, 224, 224, 15),),
    "800x1216": (Size(1, 800, 1216, 7, features=True),),
    "quick": (Size(1, 64, 64, 3), Size(1, 128, 160, 3, features=True)),
}
USUAL = {"cpu": ("224", "8x224", "800x1216"), "cuda": ("128x224", "224")}
NOTATION = "HxW or NxHxW, as in 8x224x224"
_WRITTEN = re.compile(r"(?:(\d+)x)?(\d+)x(\d+)")
_IMAGES, _FEWEST, _MOST = 60, 5, 31  # images of 224 pixels that a network sees, and the pairs that this gives


@dataclass(frozen=True)
class Setting:
    """How networks are run.

    ``dtype`` other than float32 is autocast on the CPU and in training; on a card networks are converted for inference.
    ``peers`` are names of timm. ``compiled`` adds a compiled run of each network, ``graphs`` one that is
    replayed from a CUDA graph.
    """

    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    threads: int = 1
    peers: tuple[str, ...] = ()
    train: bool = False
    compiled: bool = False
    graphs: bool = False
    variants: tuple[str, ...] = VARIANTS
    pairs: int | None = None
    clock: Clock | None = None


def chosen_sizes(words: Sequence[str], device: torch.device, quick: bool, features: bool = False) -> tuple[Size, ...]:
    """The sizes that ``words`` name, or the usual ones of the device.

    Raises:
        ValueError: a word is neither a set nor a size.
    """
    usual = ("quick",) if quick else USUAL.get(device.type, USUAL["cuda"])
    found: list[Size] = []
    for word in words or usual:
        found += SETS[word] if word in SETS else [_written(word)]
    return tuple(dict.fromkeys(dataclasses.replace(size, features=size.features or features) for size in found))


def _written(word: str) -> Size:
    match = _WRITTEN.fullmatch(word)
    numbers = [int(number or 1) for number in match.groups()] if match else [0]
    if 0 in numbers:
        raise ValueError(f"--shapes {word!r} is no size of images; expected a set ({', '.join(SETS)}), or {NOTATION}")
    batch, height, width = numbers
    pairs = round(_IMAGES * 224 * 224 / (batch * height * width))
    return Size(batch, height, width, min(max(pairs, _FEWEST), _MOST))


def chosen_models(names: Sequence[str]) -> tuple[str, ...]:
    """The architectures of these names, the two of size T when there is none.

    Raises:
        ValueError: there is no such architecture.
    """
    known = list_models()
    for name in names:
        if name not in known:
            raise ValueError(f"there is no model {name!r} to time; expected some of {', '.join(known)}")
    return tuple(dict.fromkeys(names or OURS))


def run(
    names: Sequence[str],
    sizes: Sequence[Size],
    setting: Setting,
    progress: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """A run of :func:`measure` for each size.

    Raises:
        Disagreement: a network does not compute the same on our operator and on the formula.
    """
    require_kernel(setting.device)
    with threads(setting.threads):
        found = []
        for size in sizes:
            progress(f"{kind(size, setting)} {size} {_name(setting.dtype)}")
            found.append(measure(names, size, setting))
        return found


def kind(size: Size, setting: Setting) -> str:
    """What the networks do at this size."""
    return TRAIN if setting.train else FEATURES if size.features else CLASSIFY


def measure(names: Sequence[str], size: Size, setting: Setting) -> dict[str, Any]:
    """Check our networks, then time all in turns; docs/benchmarks.md says what stands in the result."""
    image = _image(size).to(setting.device)
    if setting.compiled:
        torch.compiler.reset()  # what earlier runs compiled counts towards its limits, and holds memory
    every, left_out = _networks(names, size, setting)
    with inference(setting):
        errors = {n.label: gate(n, image[:1], setting) for n in every if n.model and not n.variant}
    candidates = [c for network in every for c in _candidates(network, image, setting)]
    samples = paired_samples(candidates, setting.pairs or size.pairs, setting.clock or clock_of(setting.device))
    about = {network.label: _weight(network, image, setting) for network in every}
    peak = {candidate.name: _peak(candidate, setting) for candidate in candidates}
    del candidates
    gc.collect()
    return {
        "task": kind(size, setting),
        "batch": size.batch,
        "size": [size.height, size.width],
        "dtype": _name(setting.dtype),
        "precision": precision(setting),
        "pairs": setting.pairs or size.pairs,
        "errors": errors,
        "left_out": left_out,
        "baseline": _baseline(samples, setting),
        "rows": [
            {
                **_row(label, samples, size, setting),
                **_speed(samples[label], about.get(label)),
                "peak_bytes": peak[label],
            }
            for label in samples
        ],
    }


def _weight(network: Network, image: Tensor, setting: Setting) -> float | None:
    """Gflop of a forward pass on one image, times the batch; of a training step nothing is said."""
    if setting.train:
        return None
    one = image[:1].to(setting.dtype) if converts(setting) else image[:1]
    return len(image) * counting.gflop(network, one)


def _peak(candidate: Candidate, setting: Setting) -> int | None:
    """Of an eager run; compiled and recorded ones hold their memory between runs."""
    if split_label(candidate.name)[1] in (COMPILED, GRAPH):
        return None
    with candidate.around():
        return peak_allocation(candidate.run, setting.device)


def _speed(samples: Sequence[Sample], gflop: float | None) -> dict[str, float | None]:
    seconds = statistics.median(sample.wall for sample in samples)
    return {"gflop": gflop, "gflops": gflop / seconds if gflop else None}


def _networks(names: Sequence[str], size: Size, setting: Setting) -> tuple[list[Network], dict[str, str]]:
    """Ours, with their variants, and the peers that take the size."""
    every: list[Network] = []
    left_out: dict[str, str] = {}
    for name in names:
        every += networks.make(name, size.features, setting.variants)
    for name in setting.peers:
        try:
            every.append(networks.make_peer(name, size.features, (size.height, size.width)))
        except (AssertionError, TypeError) as error:  # a network of timm that takes one size of images only
            left_out[name] = f"does not take {size.height}x{size.width} ({error})"
    for network in every:
        network.module.to(setting.device)
        if converts(setting):
            network.module.to(setting.dtype)
    return every, left_out


def candidates_of(names: Sequence[str], size: Size, setting: Setting) -> list[Candidate]:
    """What :func:`measure` times, unchecked."""
    image = _image(size).to(setting.device)
    return [c for network in _networks(names, size, setting)[0] for c in _candidates(network, image, setting)]


def _image(size: Size) -> Tensor:
    return torch.randn(size.batch, 3, size.height, size.width, generator=torch.Generator().manual_seed(0))


def converts(setting: Setting) -> bool:
    """Whether weights are converted, not cast at every call."""
    return setting.dtype is torch.float64 or (setting.device.type == "cuda" and not setting.train)


def precision(setting: Setting) -> str:
    """How the dtype is reached, in words."""
    if setting.dtype is torch.float32:
        return "float32"
    return f"weights in {_name(setting.dtype)}" if converts(setting) else f"{_name(setting.dtype)} autocast"


def autocast(setting: Setting) -> AbstractContextManager:
    """The precision that surrounds a run."""
    if setting.dtype is torch.float32 or converts(setting):
        return nullcontext()
    return torch.autocast(setting.device.type, setting.dtype)


@contextmanager
def inference(setting: Setting):
    """Around what is run without gradients."""
    with torch.inference_mode(), autocast(setting):
        yield


def _candidates(network: Network, image: Tensor, setting: Setting) -> list[Candidate]:
    """The eager run, and the compiled and the recorded one where they are asked for."""
    modules: dict[str, Callable[[Tensor], Any]] = {network.label: network.module}
    if setting.compiled and not network.variant:
        mode = "reduce-overhead" if setting.device.type == "cuda" else None
        modules[f"{network.label} {COMPILED}"] = torch.compile(network.module, fullgraph=True, mode=mode)
    if setting.train:
        return [_training(label, module, network, image, setting) for label, module in modules.items()]
    image = image.to(setting.dtype) if converts(setting) else image
    around = _both(network.around, lambda: inference(setting))
    runs: dict[str, Callable[[], object]] = {}
    for label, module in modules.items():
        runs[label] = lambda module=module: module(image)  # type: ignore[misc]
    if setting.graphs and not network.variant:
        runs[f"{network.label} {GRAPH}"] = _recorded(network.module, image, setting)
    return [Candidate(label, run, around, warm=1 if label == network.label else 4) for label, run in runs.items()]


def _recorded(module: nn.Module, image: Tensor, setting: Setting) -> Callable[[], object]:
    """The network on this image as a CUDA graph, which costs the host nothing but its replay."""
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream(setting.device)
    with torch.cuda.device(setting.device), inference(setting):
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                module(image)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            output = module(image)

    def replay() -> object:
        graph.replay()
        return output

    return replay


def _training(
    label: str, module: Callable[[Tensor], Any], network: Network, image: Tensor, setting: Setting
) -> Candidate:
    """Forward, cross-entropy, backward, and a step of AdamW on weights of its own."""
    target = torch.zeros(len(image), dtype=torch.long, device=image.device)
    parameters = list(network.module.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=setting.device.type == "cuda")

    def step() -> Tensor:
        network.module.train()
        with autocast(setting):
            loss = F.cross_entropy(module(image).float(), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return Candidate(label, step, network.around, warm=1 if label == network.label else 4)


def _both(*contexts: Callable[[], AbstractContextManager]) -> Callable[[], AbstractContextManager]:
    @contextmanager
    def around():
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context())
            yield

    return around


def gate(network: Network, image: Tensor, setting: Setting) -> float:
    """The relative error of a network of ours on one image.

    In float32 a small one is compared with its float64 copy on the formula; at sizes where that takes minutes, and in
    half types, the network is compared with itself on ``grid_sample`` in the same precision.

    Raises:
        Disagreement: it is too large, or an operator was not replaced where it should be, so that nothing would be
            compared.
    """
    model = network.module
    image = image.to(setting.dtype) if converts(setting) else image
    if setting.dtype is torch.float32 and image.shape[-1] * image.shape[-2] <= 256**2:
        with networks.operator(networks.on("reference")) as made:
            want = copy.deepcopy(model).double()(image.double())
    else:
        with networks.operator(networks.on("grid_sample")) as made:
            want = model(image)
    layers = networks.cores(model)
    if len(made) != layers:
        raise Disagreement(f"{network.label}: {len(made)} of {layers} operators were replaced; nothing was timed")
    pairs = zip(_as_list(model(image)), _as_list(want), strict=True)
    bound = BOUNDS[setting.dtype]
    return max(require(f"{network.label}, output {i}", got, right, bound) for i, (got, right) in enumerate(pairs))


def _as_list(output: Tensor | list[Tensor]) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else list(output)


def _baseline(samples: dict[str, list[Sample]], setting: Setting) -> str | None:
    """The network that ratios are over: the usual one of the device, or the first peer; compiled where all are."""
    names = [name for name in (BASELINE.get(setting.device.type, ""), *setting.peers) if name in samples]
    if not names:
        return None
    return f"{names[0]} {COMPILED}" if f"{names[0]} {COMPILED}" in samples else names[0]


def _row(label: str, samples: dict[str, list[Sample]], size: Size, setting: Setting) -> dict[str, Any]:
    own = samples[label]
    name, variant = split_label(label)
    over = {"baseline": _baseline(samples, setting), "own": name if variant in VARIANTS else None}
    row: dict[str, Any] = {"network": label, "model": name, "variant": variant, **dataclasses.asdict(figures(own))}
    row["images_per_s"] = size.batch / statistics.median(sample.wall for sample in own)
    row["released_images_per_s"] = RELEASED_IMAGES_PER_S.get(name) if variant == GRAPH else None
    for key, other in over.items():
        row[f"over_{key}"] = median_ratio(own, samples[other]) if other else None
        row[f"over_{key}_cpu_time"] = median_ratio(own, samples[other], "cpu") if other else None
    return row


def where_time_goes(names: Sequence[str], size: Size, setting: Setting) -> list[dict[str, Any]]:
    """Shares of the run of each network that is no variant, by kind of work; on the CPU only."""
    image = _image(size)
    plain = dataclasses.replace(setting, variants=())
    every, _ = _networks(names, size, plain)
    rows = []
    with threads(setting.threads), inference(setting):
        for network in every:
            shares = breakdown.shares(lambda network=network: network.module(image))  # type: ignore[misc]
            rows.append({"network": network.label, "batch": size.batch, "dtype": _name(setting.dtype), "ms": shares})
    return rows


def weigh(names: Sequence[str], size: Size, setting: Setting) -> list[dict[str, Any]]:
    """Peak memory of each feature extractor above weights and input, in a process of its own each; on the CPU only."""
    labels = [f"{name} {variant}".strip() for name in names for variant in ("", *setting.variants)]
    return [
        {"size": [size.height, size.width], "network": label, **peaks(label, (size.height, size.width))}
        for label in (*labels, *setting.peers)
    ]


def peaks(label: str, size: tuple[int, int]) -> dict[str, int | None]:
    """See :func:`.memory.network_peaks`."""
    command = [sys.executable, "-m", "internimage.bench.memory", label, *map(str, size)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"measuring the memory of {label} failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
