"""Tier 3 over the catalog: bytes against recorded hashes."""

from __future__ import annotations

from forgekit.suite.test_tier3_hashes import pytestmark, test_the_bytes_are_the_recorded_ones

__all__ = ["pytestmark", "test_the_bytes_are_the_recorded_ones"]
