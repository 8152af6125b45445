"""The weights that training starts from."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import torch

from ...classifier import source_of
from ...models import InternImageClassifier
from ...recipes.classification import ClassificationRecipe
from ...weights.load import load_weights
from ...weights.report import LoadReport


def start_from_pretrained(model: InternImageClassifier, recipe: ClassificationRecipe) -> LoadReport:
    """Put the weights ``recipe.pretrained`` into a fresh model, its classifier as ``recipe.head_start`` says.

    A classifier that begins at random is that of the model as it came, times ``recipe.head_init_scale``: where the
    recipe says so, and where the weights are for other classes in number. The branch for date and place goes with it.

    Raises:
        WeightsError: the weights do not fit.
        OSError: a download failed.
    """
    classifiers = [module for name, module in model.named_modules() if name in ("head.fc", "metadata.fc")]
    fresh = [{key: value.clone() for key, value in module.state_dict().items()} for module in classifiers]
    with _expecting_other_classes():
        report = load_weights(model, source_of(recipe.pretrained))
    if recipe.head_start == "random" or report.kept_classifier:
        with torch.no_grad():
            for module, values in zip(classifiers, fresh, strict=True):
                module.load_state_dict({key: value * recipe.head_init_scale for key, value in values.items()})
    return report


@contextlib.contextmanager
def _expecting_other_classes() -> Iterator[None]:
    """No warning that the weights are for other classes: that is why there is training."""
    logger = logging.getLogger("internimage")

    def is_news(record: logging.LogRecord) -> bool:
        return "the classifier keeps its own values" not in record.getMessage()

    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)
