"""The runtime matrix: every declared runtime loads the artifact."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from forgekit.findings import Finding

pytestmark = [pytest.mark.runtime, pytest.mark.claims("runtime")]


def test_the_declared_runtime_runs_it(finding: Finding, judge: Callable[[Finding], None]) -> None:
    judge(finding)
