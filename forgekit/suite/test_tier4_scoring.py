"""Tier 4: published samples, scored again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from forgekit.findings import Finding

pytestmark = [pytest.mark.tier4, pytest.mark.claims(4)]


def test_the_samples_give_the_published_score(finding: Finding, judge: Callable[[Finding], None]) -> None:
    judge(finding)
