"""A run to kill: a tiny classifier on pictures in files, with a worker, mixing, averages and accumulation.

``torchrun -m tests.train.killed_run DATA OUTPUT`` trains it by what ``internimage train`` calls, and goes on with what
is in OUTPUT. :func:`start` does the same in two processes that are forked off one that has imported everything: twenty
starts then take no longer than two of torchrun's.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import accelerate  # noqa: F401 - here and below, what a run imports on its way
import torch
import torch.utils.tensorboard  # noqa: F401

import internimage.data.formats  # noqa: F401
import internimage.train.classification.file_source  # noqa: F401
import internimage.train.classification.sources  # noqa: F401
import internimage.train.state  # noqa: F401
import internimage.train.strategies.accelerated  # noqa: F401
import internimage.train.watchers  # noqa: F401
from internimage.cli.training import Running, run
from internimage.recipes import ClassificationRecipe
from internimage.recipes.augmentation import Mixing

from ..data.made_up import save_noise

PROCESSES, EPOCHS, STEPS = 2, 8, 6  # steps of an epoch
TOTAL = EPOCHS * STEPS
NETWORK = {"channels": 16, "depths": (1, 1, 1, 1), "groups": (1, 2, 4, 8)}
Spoil = Callable[[], None]


def make_pictures(folder: Path) -> Path:
    """Three classes of twenty pictures, of which four are held out."""
    for number in range(60):
        save_noise(folder / "abc"[number % 3] / f"{number:02d}.png", number)
    return folder


def recipe(data: Path) -> ClassificationRecipe:
    return ClassificationRecipe(
        name="killed",
        model="internimage_femto",
        model_changes=NETWORK,
        drop_path_rate=0.2,
        data=str(data),
        source="files",
        held_out=0.2,
        image_sizes=(32,),
        epochs=EPOCHS,
        batch_size=8,
        lr=2e-3,
        ema_decay=0.9,
        mixing=Mixing(mixup=0.8, cutmix=1.0),
    )


def train(data: Path, output: Path) -> int:
    """As the command does it; returns the exit code."""
    torch.set_num_threads(1)
    how = Running(workers=1, accumulation=2, save_every=1, auto_resume=True, device="cpu")
    return run(recipe(data), output, how)


def start(data: Path, output: Path, spoil: Spoil | None = None) -> BaseProcess:
    """Two processes that train, in a group of their own, led by the one that is returned; ``spoil`` comes first."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_lead, args=(data, output, spoil))
    process.start()
    return process


def tell(process: BaseProcess, number: int) -> None:
    """Send a signal to the whole group, readers included, as a terminal does for Ctrl-C."""
    assert process.pid is not None
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:  # it has not become a group yet
        os.kill(process.pid, number)


class HalfWritten:
    """Writes half of the checkpoint of a step, and is killed with all others."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self) -> None:
        save = torch.save

        def save_half(contents, file):
            if contents["step"] < self.step:
                return save(contents, file)
            whole = io.BytesIO()
            save(contents, whole)
            file.write(whole.getvalue()[: whole.tell() // 2])
            file.flush()
            os.killpg(0, signal.SIGKILL)

        torch.save = save_half


class AtRename:
    """Is killed with all others just before or just after a file gets its final name."""

    def __init__(self, name: str, after: bool) -> None:
        self.name, self.after = name, after

    def __call__(self) -> None:
        replace = Path.replace

        def replace_and_die(path, target):
            named = Path(target).name == self.name
            if self.after or not named:
                replace(path, target)
            if named:
                os.killpg(0, signal.SIGKILL)

        Path.replace = replace_and_die


def _lead(data: Path, output: Path, spoil: Spoil | None) -> None:
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # for the readers, which would import everything anew
    with socket.socket() as free:
        free.bind(("localhost", 0))
        os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(free.getsockname()[1]), WORLD_SIZE=str(PROCESSES))
    log = os.open(output.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    ranks = [_fork(rank, data, output, spoil) for rank in range(PROCESSES)]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    codes = [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks]
    sys.exit(codes[0] or codes[1])


def _fork(rank: int, data: Path, output: Path, spoil: Spoil | None) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        if spoil is not None:
            spoil()
        code = train(data, output)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    Path(sys.argv[2]).with_suffix(f".{os.environ['RANK']}.pid").write_text(str(os.getpid()))
    sys.exit(train(Path(sys.argv[1]), Path(sys.argv[2])))
