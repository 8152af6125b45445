"""A small classifier with random weights that looks at where its offsets say, for tests that need any model."""

from __future__ import annotations

from pathlib import Path

import torch

from internimage.data.transforms import Preprocessing
from internimage.models import InternImageClassifier, create_model
from internimage.weights import ModelCard, save_model

NAMES = ("shoe", "bag [big]", "coat")  # brackets: nothing may take them for markup
NOTE = "trained on nothing, 3 classes"


def small_model(seed: int = 0) -> InternImageClassifier:
    """Two blocks in stages 1 and 3, one in the others; grey pictures of any size, three classes."""
    torch.manual_seed(seed)
    model = create_model(
        "internimage_femto", num_classes=3, in_chans=1, channels=16, depths=(2, 1, 2, 1), groups=(2, 2, 4, 4)
    )
    assert isinstance(model, InternImageClassifier)
    for name, parameter in model.named_parameters():
        if name.endswith(("offset.bias", "mask.bias")):
            torch.nn.init.normal_(parameter)
    return model.eval()


def save_small_model(path: Path) -> Path:
    """The model in our own format, with everything needed to classify a picture."""
    model = small_model()
    preprocessing = Preprocessing(image_size=32, mode="L", mean=(0.3,), std=(0.3,), dark_background=True)
    card = ModelCard(
        name="small", config=model.config, num_classes=3, class_names=NAMES, note=NOTE, preprocessing=preprocessing
    )
    save_model(path, model.state_dict(), card)
    return path


def save_metadata_model(path: Path) -> Path:
    """One with a branch for date and place that sways its answers."""
    torch.manual_seed(0)
    model = create_model(
        "internimage_femto", num_classes=3, channels=16, depths=(1, 1, 1, 1), groups=(2, 2, 4, 4), use_metadata=True
    )
    assert isinstance(model, InternImageClassifier) and model.metadata is not None
    torch.nn.init.normal_(model.metadata.fc.weight)
    preprocessing = Preprocessing(image_size=32, mode="L", mean=(0.3,), std=(0.3,))
    card = ModelCard(name="dated", config=model.config, num_classes=3, class_names=NAMES, preprocessing=preprocessing)
    save_model(path, model.state_dict(), card)
    return path
