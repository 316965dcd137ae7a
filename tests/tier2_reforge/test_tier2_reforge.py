"""Tier 2 over the catalog: recipes run again."""

from __future__ import annotations

from forgekit.suite.test_tier2_reforge import pytestmark, test_the_recipe_gives_the_same_model

__all__ = ["pytestmark", "test_the_recipe_gives_the_same_model"]
