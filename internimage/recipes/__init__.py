"""What to train and how: a function a recipe, each telling its cost and its result."""

from .classification import RECIPES, ClassificationRecipe, get_recipe

__all__ = ["RECIPES", "ClassificationRecipe", "get_recipe"]
