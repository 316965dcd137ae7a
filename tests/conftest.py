"""What several folders of tests share."""

from __future__ import annotations

import os

import pytest

# workers of a run share the processors: threads of theirs would wait for each other, spinning
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def bench():
    """Engines that stay open from one test to the next."""
    from forgekit.probing.bench import Bench

    with Bench() as made:
        yield made
