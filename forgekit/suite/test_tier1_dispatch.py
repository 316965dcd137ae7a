"""Tier 1: what the document alone decides."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from forgekit.findings import Finding

pytestmark = [pytest.mark.tier1, pytest.mark.claims(1)]


def test_the_document_means_what_it_says(finding: Finding, judge: Callable[[Finding], None]) -> None:
    judge(finding)
