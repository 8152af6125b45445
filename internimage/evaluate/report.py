"""The page of an evaluation: scores beside the published ones, every class, what is confused, the worst mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ..draw import for_display
from ..page import Html, bar, escaped, figures, pairs_table, paragraph, picture, section, table, unreadable, write_page
from .confusion import Triple, draw_confusion, most_confused

_SMALLEST, _LARGEST = 128, 192  # pixels of the longer side of a mistake's picture
_PAIRS = 20  # that are confused most


@dataclass(frozen=True, kw_only=True)
class ShownMistake:
    """A picture that is taken for something else; ``percent`` is how sure the model is, 0 to 100.

    ``picture`` is None where it can no longer be read; ``name`` is its file or number.
    """

    truth: str
    answer: str
    percent: float
    name: str = ""
    picture: Image.Image | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured, in plain data; what is empty is left out of the page.

    Attributes:
        model: its name.
        top1, top5: in percent; ``top5`` None where it says nothing. ``loss`` is the mean cross-entropy, in nats.
        pictures: that were classified.
        published: the top-1 that the authors of the weights report, in percent.
        class_names: of all classes that could be answered.
        classes: a mapping a class that has pictures: "name", "pictures", "top1" in percent and, where there are,
            "top5", "taken_for", the class it is mistaken for most, and "taken_times".
        confusion: true class, answer and number of pictures, right answers included.
        mistakes: to show, in this order.
        speed, data, settings: name and value of what else to tell: pictures a second; where the data lies; device,
            dtype, preprocessing, versions.
        unreadable: the reasons why pictures were left out, one each.
        note: a sentence under the title.
    """

    model: str
    top1: float
    pictures: int
    top5: float | None = None
    loss: float | None = None
    published: float | None = None
    class_names: Sequence[str] = ()
    classes: Sequence[Mapping[str, object]] = ()
    confusion: Sequence[Triple] = ()
    mistakes: Sequence[ShownMistake] = ()
    speed: Mapping[str, object] = field(default_factory=dict)
    data: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    unreadable: Sequence[str] = ()
    note: str = ""


def write_evaluation_report(path: str | Path, evaluation: Evaluation) -> Path:
    """Write the page of an evaluation, one HTML file that opens without a network. Returns ``path``."""
    told = evaluation
    return write_page(
        path,
        f"{told.model}: {told.top1:.2f} % right",
        paragraph(told.note),
        _figures(told),
        section("Data", pairs_table(told.data), unreadable(told.unreadable)),
        section("What is taken for what", _confusion(told)),
        section("Worst mistakes", _mistakes(told.mistakes)),
        section("Every class, the hardest first", _classes(told.classes)),
        section("How it was measured", pairs_table({**told.speed, **told.settings})),
    )


def _figures(told: Evaluation) -> Html:
    boxes = [(f"{told.top1:.2f} %", "top-1")]
    if told.published is not None:
        boxes.append((f"{told.published:.2f} %", f"top-1, published ({told.top1 - told.published:+.2f} here)"))
    if told.top5 is not None:
        boxes.append((f"{told.top5:.2f} %", "top-5"))
    if told.loss is not None:
        boxes.append((f"{told.loss:.4f}", "mean cross-entropy"))
    return figures([*boxes, (f"{told.pictures:,}", "pictures")])


def _confusion(told: Evaluation) -> Html:
    if not told.confusion:
        return Html("")
    names = told.class_names
    drawn = picture(draw_confusion(names, told.confusion), "the confusion matrix")
    rows = [
        (pair.truth, pair.answer, f"{pair.pictures:,}", f"{pair.percent:.1f} %")
        for pair in most_confused(names, told.confusion, _PAIRS)
    ]
    heads = ("true class", "taken for", "pictures", "of the class")
    return Html(f'<div class="drawing">{drawn}</div>\n' + table(heads, rows, numbers=(2, 3)))


def _mistakes(mistakes: Sequence[ShownMistake]) -> Html:
    if not mistakes:
        return Html("")
    words = paragraph("Wrong answers that the model was surest of.")
    return Html(f'{words}<div class="grid">\n' + "\n".join(map(_mistake, mistakes)) + "\n</div>")


def _mistake(mistake: ShownMistake) -> Html:
    shown = ""
    if mistake.picture is not None:
        small = for_display(mistake.picture, _SMALLEST, _LARGEST)
        is_photo = max(mistake.picture.size) >= _SMALLEST
        shown = picture(small, mistake.truth, "JPEG" if is_photo else "PNG")
    return Html(
        f"<figure class=wrong>{shown}<figcaption>"
        f'<div class="answer"><span>{escaped(mistake.answer)}</span><span>{mistake.percent:.0f} %</span></div>'
        f'{bar(mistake.percent)}<div class="truth">is {escaped(mistake.truth)}</div>'
        f'<div class="grey">{escaped(mistake.name)}</div></figcaption></figure>'
    )


def _classes(classes: Sequence[Mapping[str, object]]) -> Html:
    """Sorted by accuracy; classes alike, by name."""
    has_top5 = any(row.get("top5") is not None for row in classes)
    heads = ["class", "pictures", "top-1, %", "", *(["top-5, %"] if has_top5 else []), "most often taken for"]
    rows = []
    for row in sorted(classes, key=lambda row: (float(str(row["top1"])), str(row["name"]))):
        top1, times = float(str(row["top1"])), row.get("taken_times")
        taken = f"{row.get('taken_for')} ({times})" if times else ""
        top5 = [f"{row['top5']:.2f}" if row.get("top5") is not None else ""] if has_top5 else []
        rows.append([row["name"], row["pictures"], f"{top1:.2f}", bar(top1), *top5, taken])
    return table(heads, rows, numbers=(1, 2, 4) if has_top5 else (1, 2))
