"""Tier 1 over the catalog: what the documents alone decide."""

from __future__ import annotations

from forgekit.suite.test_tier1_dispatch import pytestmark, test_the_document_means_what_it_says

__all__ = ["pytestmark", "test_the_document_means_what_it_says"]
