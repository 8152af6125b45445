"""Data sets that verbs fetch when told to."""

from __future__ import annotations

from pathlib import Path


def fetch(data: str, download: Path | None) -> str:
    """What to open as ``data``: itself, or the folder that Fashion-MNIST was just fetched into.

    Raises:
        ValueError: ``data`` is not Fashion-MNIST.
    """
    if download is None:
        return data
    from ..data.fashion_mnist import download as download_fashion_mnist
    from ..data.formats import FASHION_MNIST

    if data != FASHION_MNIST:
        raise ValueError(f"--download fetches {FASHION_MNIST} only; leave it out for --data {data}")
    return str(download_fashion_mnist(download))
