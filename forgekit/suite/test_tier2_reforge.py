"""Tier 2: running the recipe again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from forgekit.findings import Finding

pytestmark = [pytest.mark.tier2, pytest.mark.claims(2)]


def test_the_recipe_gives_the_same_model(finding: Finding, judge: Callable[[Finding], None]) -> None:
    judge(finding)
