"""The page of the demo: one HTML file that carries its pictures inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ._version import __version__
from .files import write_through

if TYPE_CHECKING:
    from .classifier import Classifier
    from .demo import DemoPicture

STYLE = """
:root { --paper: #fff; --soft: #f5f6f8; --ink: #1c2128; --grey: #6e7681; --rule: #e1e4e9; --good: #0d7490; --bad: #b4232c }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171c; --soft: #1c2027; --ink: #e7eaee; --grey: #9aa3ad; --rule: #2c323b; --good: #38b2cf; --bad: #f2777f }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 64px }
h1 { font-size: 30px; margin: 0 0 4px; letter-spacing: -.01em }
h2 { font-size: 20px; margin: 44px 0 4px }
p { margin: 0 0 12px; max-width: 72ch }
.grey { color: var(--grey) }
.numbers { display: flex; flex-wrap: wrap; gap: 12px; margin: 24px 0 }
.numbers div { background: var(--soft); border-radius: 10px; padding: 12px 18px; min-width: 150px }
.numbers b { display: block; font-size: 26px; line-height: 1.2; font-variant-numeric: tabular-nums }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); gap: 14px; margin-top: 16px }
figure { margin: 0; background: var(--soft); border-radius: 10px; overflow: hidden; border: 1px solid var(--rule) }
figure.wrong { border: 2px solid var(--bad) }
.grid img { width: 100%; aspect-ratio: 1; object-fit: contain; background: #000; image-rendering: pixelated; display: block }
figcaption { padding: 10px 12px 12px; font-size: 14px }
.answer { display: flex; justify-content: space-between; font-weight: 600; font-size: 15px }
.answer span:last-child { font-variant-numeric: tabular-nums }
.bar { height: 6px; border-radius: 3px; background: var(--rule); margin: 6px 0 8px; overflow: hidden }
.bar i { display: block; height: 100%; background: var(--good); border-radius: 3px }
.wrong .bar i { background: var(--bad) }
.truth { color: var(--grey) }
.wrong .truth { color: var(--bad); font-weight: 600 }
.looks img { width: 100%; display: block; border: 1px solid var(--rule); border-radius: 10px; margin-top: 16px; background: #fff }
pre { background: var(--soft); border: 1px solid var(--rule); border-radius: 10px; padding: 14px 16px; overflow-x: auto; font-size: 14px }
"""


def write_page(
    path: Path, classifier: Classifier, pictures: Sequence[DemoPicture], looks: Sequence[Path], seconds: float
) -> Path:
    """Write the page; ``looks`` are drawings of sampling points, already saved. Returns ``path``."""
    right, total = sum(shown.right for shown in pictures), len(pictures)
    parameters = sum(parameter.numel() for parameter in classifier.model.parameters())
    numbers = (
        (f"{right} of {total}", "pictures right"),
        (f"{1000 * seconds / total:.0f} ms", f"a picture, on {classifier.device}"),
        (f"{parameters / 1e6:.2f} M", "parameters"),
    )
    body = [
        f"<h1>{right} of {total} pictures right</h1>",
        f'<p class="grey">{escape(classifier.name)}: {escape(classifier.note)}. InternImage-torch {__version__}.</p>',
        '<div class="numbers">' + "".join(f"<div><b>{a}</b>{escape(b)}</div>" for a, b in numbers) + "</div>",
        "<p>These are the first four test pictures of each class of Fashion-MNIST (Zalando SE, MIT licence), in file order: "
        "nothing was chosen, and the model was not trained on any of them. Wrong answers have a red frame.</p>",
        f'<div class="grid">{"".join(_card(shown) for shown in pictures)}</div>',
        "<h2>Where it looks</h2>",
        "<p>For one output pixel in the middle of a picture: the points at which a DCNv3 layer samples, and beside them the "
        "nine that a plain convolution would take. A point is as large as its weight. "
        "<code>internimage explain</code> draws this for any picture.</p>",
        f'<div class="looks">{"".join(_drawing(look) for look in looks)}</div>',
        "<h2>Your turn</h2>",
        "<pre>internimage classify photo.jpg --save-dir answers\ninternimage explain photo.jpg --output look.png\n"
        "internimage models</pre>",
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>InternImage demo</title><style>{STYLE}</style></head>\n<body><main>\n" + "\n".join(body) + "\n</main></body></html>\n"
    )
    with write_through(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _card(shown: DemoPicture) -> str:
    answer, prob = shown.prediction.labels[0], shown.prediction.probs[0]
    truth = "right" if shown.right else f"is {escape(shown.truth)}"
    return (
        f'<figure{"" if shown.right else " class=wrong"}><img src="{as_address(shown.picture)}" alt="{escape(shown.truth)}">'
        f'<figcaption><div class="answer"><span>{escape(answer)}</span><span>{100 * prob:.0f} %</span></div>'
        f'<div class="bar"><i style="width:{100 * prob:.1f}%"></i></div>'
        f'<div class="truth">{truth}</div></figcaption></figure>'
    )


def _drawing(path: Path) -> str:
    with Image.open(path) as picture:
        return f'<img src="{as_address(picture)}" alt="sampling points of {escape(path.stem)}">'


def as_address(picture: Image.Image) -> str:
    """A picture as a data: address."""
    packed = io.BytesIO()
    picture.save(packed, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(packed.getvalue()).decode("ascii")
