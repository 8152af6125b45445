"""Peak memory of a network, in its own process: ``python -m internimage.bench.network_memory NAME HEIGHT WIDTH``."""

from __future__ import annotations

import json
import sys

import torch

from ..models import list_models
from . import networks
from .labels import split_label
from .memory import peak_allocation, peak_resident


def network_peaks(label: str, size: tuple[int, int]) -> dict[str, int | None]:
    """Both peaks of a feature extractor above its weights and its input, in this process.

    Args:
        label: as :mod:`.model` writes it: a model, ours or of timm, and maybe a variant behind it.
    """
    torch.set_num_threads(1)
    name, variant = split_label(label)
    if name in list_models():
        network = networks.make(name, True, (variant,) if variant else ())[-1]
    else:
        network = networks.make_peer(name, True, size)
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), network.around():
        try:  # code and weights are read in, buffers of the libraries made
            network.module(image[..., :64, :64])
        except AssertionError:  # a network of timm that takes one size of images only
            network.module(image)
        resident = peak_resident(lambda: network.module(image))
        return {"resident_bytes": resident, "allocated_bytes": peak_allocation(lambda: network.module(image))}


if __name__ == "__main__":  # a fresh process for each network: what one leaves behind would count for the next
    print(json.dumps(network_peaks(sys.argv[1], (int(sys.argv[2]), int(sys.argv[3])))))
