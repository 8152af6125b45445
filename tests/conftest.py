"""What holds for every test: one thread, no network, and a cache folder of its own."""

from __future__ import annotations

import ipaddress
import os
import socket

# Before torch is imported, and inherited by the processes that tests start: on a busy machine a second thread mostly
# waits for the first, and the tests already run in parallel processes.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Nothing is read from or left in the caches of the person who runs the tests."""
    patch = pytest.MonkeyPatch()
    patch.setenv("INTERNIMAGE_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.delenv("INTERNIMAGE_BACKEND", raising=False)
    yield
    patch.undo()


@pytest.fixture(autouse=True, scope="session")
def no_network():
    """A connection to any other machine fails at once, as it does on a machine without network."""
    connect = socket.socket.connect

    def connect_here_only(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
            raise ConnectionRefusedError(f"tests run without network, and this one asked for {address[0]}")
        return connect(self, address)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", connect_here_only)
    yield
    patch.undo()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
