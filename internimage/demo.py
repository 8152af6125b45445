"""The demo: forty real pictures that come with the package, classified, drawn, and gathered on one page."""

from __future__ import annotations

import csv
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .classifier import Classifier, load
from .data.pictures import read_picture
from .demo_page import DemoPicture, write_page
from .draw import draw_answer, save_picture
from .draw_sampling import draw_sampling
from .explain import sampling_points

PICTURES = Path(__file__).parent / "assets" / "demo"
OUTPUT = Path("demo_output")
STAGE, BLOCK = 2, -1  # of the drawings of where DCNv3 looks


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo found and where it lies. ``seconds`` is the time that classifying took, reading included."""

    pictures: tuple[DemoPicture, ...]
    seconds: float
    page: Path
    folder: Path

    @property
    def right(self) -> int:
        """How many best answers are true."""
        return sum(picture.right for picture in self.pictures)


def run(output: str | Path = OUTPUT, classifier: Classifier | None = None) -> DemoResult:
    """Classify the pictures, draw the answers and what DCNv3 looks at, and write the page.

    Args:
        output: the folder to write to; files of the same names are replaced.
        classifier: the embedded model unless given.
    """
    output, classifier = Path(output), classifier or load()
    start = time.perf_counter()
    pictures = _classify(classifier)
    seconds = time.perf_counter() - start
    for shown in pictures:
        answer = shown.prediction
        note = f"truth: {shown.truth}\n{answer.note}"
        save_picture(draw_answer(shown.picture, answer.labels, answer.probs, note), output / "pictures" / shown.name)
    looks = _draw_looks(classifier, pictures, output / "explained")
    page = write_page(output / "index.html", classifier, pictures, looks, seconds)
    return DemoResult(pictures=tuple(pictures), seconds=seconds, page=page, folder=output)


def _classify(classifier: Classifier) -> list[DemoPicture]:
    names, truths = zip(*_listing(), strict=True)
    pictures = [read_picture(PICTURES / name) for name in names]
    answers = classifier.predict(pictures, top=3)
    return [
        DemoPicture(name=name, truth=truth, picture=picture, prediction=answer)
        for name, truth, picture, answer in zip(names, truths, pictures, answers, strict=True)
    ]


def _listing() -> list[tuple[str, str]]:
    """File name and true class of each picture."""
    rows = csv.reader((PICTURES / "pictures.tsv").read_text(encoding="utf-8").splitlines(), delimiter="\t")
    return [(row[0], row[1]) for row in list(rows)[1:]]


def _draw_looks(classifier: Classifier, pictures: list[DemoPicture], folder: Path) -> list[Path]:
    """For the first picture of every other class: where the last block of a stage samples for its middle."""
    paths = []
    first_of_class = {shown.truth: shown for shown in reversed(pictures)}
    for truth in list(dict.fromkeys(shown.truth for shown in pictures))[::2]:
        shown = first_of_class[truth]
        batch = classifier.prepare(shown.picture)[None].to(classifier.device, classifier.dtype)
        sampling = sampling_points(classifier.model, batch, STAGE, BLOCK)
        path = folder / f"{Path(shown.name).stem}-stage{STAGE}.png"
        save_picture(draw_sampling(classifier.preprocessing.frame(shown.picture), sampling, truth), path)
        paths.append(path)
    return paths


if __name__ == "__main__":
    from .cli.main import app

    app(["demo", *sys.argv[1:]], prog_name="internimage")
