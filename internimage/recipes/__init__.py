"""What to train and how: a function a recipe, each telling its cost and its result."""

from .augmentation import Mixing, Transform
from .catalog import RECIPES, get_recipe
from .classification import ClassificationRecipe
from .overrides import differences, override

__all__ = ["RECIPES", "ClassificationRecipe", "Mixing", "Transform", "differences", "get_recipe", "override"]
