"""An evaluation as the plain data of its page."""

from __future__ import annotations

from dataclasses import asdict

from PIL import Image

from ..classifier import Classifier
from ..data.pictures import PictureError
from ..data.shards import Shards
from .classification import Scores
from .pictures import Data
from .report import Evaluation, ShownMistake

_MISTAKES = 24  # pictures on the page


def summary_of(scores: Scores, classifier: Classifier, data: Data, where: str, published: float | None) -> Evaluation:
    """What the page of an evaluation tells; pictures of the worst mistakes are read again.

    Args:
        where: the data lie, in words.
        published: top-1 that the authors of the weights report, in percent.
    """
    model = classifier.model
    size = classifier.preprocessing.image_size
    return Evaluation(
        model=classifier.name,
        note=classifier.note,
        top1=scores.top1,
        top5=scores.top5,
        loss=scores.loss,
        published=published,
        pictures=scores.pictures,
        class_names=scores.class_names,
        classes=[asdict(score) for score in scores.classes],
        confusion=scores.confusion,
        mistakes=worst_mistakes(scores, data),
        speed={
            "pictures a second": f"{scores.images_per_s:,.1f}",
            "by the model alone": f"{scores.model_images_per_s:,.1f}",
        },
        data={"where": where, "pictures": f"{len(data):,}{_left_out(scores)}", "classes": f"{len(data.class_names):,}"},
        settings={
            "input": f"{size} x {size}, {_framing(classifier)}",
            "device": str(classifier.device),
            "dtype": str(classifier.dtype).removeprefix("torch."),
            "parameters": f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        },
        unreadable=scores.unreadable,
    )


def _left_out(scores: Scores) -> str:
    count = len(scores.unreadable)
    return f", of which {count:,} cannot be read" if count else ""


def worst_mistakes(scores: Scores, data: Data, limit: int = _MISTAKES) -> list[ShownMistake]:
    """The wrong answers that the model was surest of, with their pictures where these can be read by position."""
    shown = []
    for mistake in scores.worst_mistakes(limit):
        name = f"picture {mistake.index}" if isinstance(data, Shards) else data.name(mistake.index)
        shown.append(
            ShownMistake(
                truth=mistake.truth,
                answer=mistake.answer,
                percent=100 * mistake.prob,
                name=name,
                picture=_picture(data, mistake.index),
            )
        )
    return shown


def _picture(data: Data, index: int) -> Image.Image | None:
    if isinstance(data, Shards):
        return None
    try:
        return data.read(index).picture
    except PictureError:
        return None


def _framing(classifier: Classifier) -> str:
    how = classifier.preprocessing
    if how.dark_background:
        return f"cut to the object, laid on black, {how.interpolation}"
    if how.crop:
        return f"shorter side resized to it, middle cut out, {how.interpolation}"
    return f"squeezed into it, {how.interpolation}"
