"""The runtime matrix over the catalog."""

from __future__ import annotations

from forgekit.suite.test_runtime_matrix import pytestmark, test_the_declared_runtime_runs_it

__all__ = ["pytestmark", "test_the_declared_runtime_runs_it"]
