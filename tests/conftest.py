"""What several folders of tests share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def bench():
    """Engines that stay open from one test to the next."""
    from forgekit.probing.bench import Bench

    with Bench() as made:
        yield made
