"""The page of the demo: one HTML file that carries its pictures inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

from PIL import Image

from ._version import __version__
from .classifier import Classifier, Prediction
from .files import write_through
from .page import STYLE, as_address

TEMPLATE = Path(__file__).parent / "assets" / "demo" / "page.html"


@dataclass(frozen=True, kw_only=True)
class DemoPicture:
    """One picture of the demo, what it shows and what the model says."""

    name: str
    truth: str
    picture: Image.Image
    prediction: Prediction

    @property
    def right(self) -> bool:
        """Whether the best answer is the true one."""
        return self.prediction.top == self.truth


def write_page(
    path: Path, classifier: Classifier, pictures: Sequence[DemoPicture], looks: Sequence[Path], seconds: float
) -> Path:
    """Write the page; ``looks`` are drawings of sampling points, already saved. Returns ``path``."""
    parameters = sum(parameter.numel() for parameter in classifier.model.parameters())
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        style=STYLE.read_text(encoding="utf-8"),
        right=sum(shown.right for shown in pictures),
        total=len(pictures),
        name=escape(classifier.name),
        note=escape(classifier.note),
        version=__version__,
        milliseconds=f"{1000 * seconds / len(pictures):.0f}",
        device=escape(str(classifier.device)),
        parameters=f"{parameters / 1e6:.2f}",
        cards="\n".join(_card(shown) for shown in pictures),
        looks="\n".join(_drawing(look) for look in looks),
    )
    with write_through(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _card(shown: DemoPicture) -> str:
    answer, prob = shown.prediction.labels[0], shown.prediction.probs[0]
    truth = "right" if shown.right else f"is {escape(shown.truth)}"
    return (
        f"<figure{'' if shown.right else ' class=wrong'}>"
        f'<img src="{as_address(shown.picture)}" alt="{escape(shown.truth)}">'
        f'<figcaption><div class="answer"><span>{escape(answer)}</span><span>{100 * prob:.0f} %</span></div>'
        f'<div class="bar"><i style="width:{100 * prob:.1f}%"></i></div>'
        f'<div class="truth">{truth}</div></figcaption></figure>'
    )


def _drawing(path: Path) -> str:
    with Image.open(path) as picture:
        return f'<img src="{as_address(picture)}" alt="sampling points of {escape(path.stem)}">'
