"""Recipes by name; a recipe's module is imported when it is asked for."""

from __future__ import annotations

import importlib

from safesignal.align.config import RecipeName
from safesignal.align.recipe import Recipe

__all__ = ["recipe_class"]

_PLACES: dict[RecipeName, tuple[str, str]] = {
    "gated": ("safesignal.align.gated", "GatedRecipe"),
    "joint": ("safesignal.align.joint", "JointRecipe"),
    "pretrain": ("safesignal.align.pretrain", "PretrainRecipe"),
    "sft": ("safesignal.align.sft", "SftRecipe"),
    "augment": ("safesignal.align.augment", "AugmentRecipe"),
}


def recipe_class(name: RecipeName) -> type[Recipe]:
    """Return the class that trains a recipe (its `from_base` loads the model)."""
    module, kind = _PLACES[name]
    found: type[Recipe] = getattr(importlib.import_module(module), kind)
    return found
