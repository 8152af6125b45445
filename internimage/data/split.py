"""Two parts of one data set: what is trained on and what is measured on."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from .dataset import PictureDataset, Sample

TRAIN_FOLDERS = ("train", "training")
HELD_OUT_FOLDERS = ("val", "valid", "validation", "test")


def stratified_split(labels: Tensor, share: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Indices of two parts, each class divided alike and at random, always the same for one ``seed``.

    Args:
        labels: (N,), int64.
        share: of each class that goes to the second part, 0 to below 1: at least one picture of each class of two or
            more, unless it is 0, and never the last one.

    Returns:
        Positions of the first and of the second part, ascending.
    """
    if not 0 <= share < 1:
        raise ValueError(f"the share held out is {share}, expected 0 to below 1")
    generator = torch.Generator().manual_seed(seed)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        members = (labels == label).nonzero()[:, 0]
        count = round(len(members) * share)
        if share:
            count = min(max(count, 1), len(members) - 1)
        held_out[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]


def parts_of(folder: str | Path) -> tuple[Path, Path | None]:
    """The folders to train on and to measure on where a folder holds a ``train`` and, maybe, a ``val``; else itself.

    ``valid``, ``validation`` and ``test`` stand for ``val``, in this order.
    """
    folder = Path(folder)
    train = next((folder / name for name in TRAIN_FOLDERS if (folder / name).is_dir()), None)
    if train is None:
        return folder, None
    return train, next((folder / name for name in HELD_OUT_FOLDERS if (folder / name).is_dir()), None)


class WithClasses:
    """A data set whose labels are positions in the class names of another."""

    def __init__(self, dataset: PictureDataset, class_names: tuple[str, ...]) -> None:
        """ValueError where ``dataset`` has a class that is not among ``class_names``."""
        position = {name: number for number, name in enumerate(class_names)}
        strange = [name for name in dataset.class_names if name not in position]
        if strange:
            raise ValueError(
                f"the pictures to measure on have {len(strange)} classes that are not trained on, such as "
                f"{strange[0]!r}; trained on are {', '.join(class_names[:6])}{' ...' if len(class_names) > 6 else ''}"
            )
        self.dataset, self.class_names = dataset, class_names
        self._label_of = torch.tensor([position[name] for name in dataset.class_names], dtype=torch.int64)

    @property
    def labels(self) -> Tensor:
        """(N,), int64."""
        return self._label_of[self.dataset.labels]

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        """What the picture is called."""
        return self.dataset.name(index)

    def read(self, index: int) -> Sample:
        """One picture."""
        sample = self.dataset.read(index)
        return sample._replace(label=int(self._label_of[sample.label]))
