"""Every artifact of the catalog can be read."""

from __future__ import annotations

from forgekit.suite.test_readable import pytestmark, test_the_artifact_can_be_read

__all__ = ["pytestmark", "test_the_artifact_can_be_read"]
