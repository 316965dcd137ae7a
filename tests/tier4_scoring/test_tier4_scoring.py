"""Tier 4 over the catalog: samples scored again."""

from __future__ import annotations

from forgekit.suite.test_tier4_scoring import pytestmark, test_the_samples_give_the_published_score

__all__ = ["pytestmark", "test_the_samples_give_the_published_score"]
