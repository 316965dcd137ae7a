"""Tier 3: bytes against recorded hashes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from forgekit.findings import Finding

pytestmark = [pytest.mark.tier3, pytest.mark.claims(3)]


def test_the_bytes_are_the_recorded_ones(finding: Finding, judge: Callable[[Finding], None]) -> None:
    judge(finding)
