"""Before any tier: every artifact can be read at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from forgekit.errors import UnreachableError

if TYPE_CHECKING:
    from forgekit.pytest_plugin import Subject

pytestmark = pytest.mark.tier1


def test_the_artifact_can_be_read(unreadable: Subject) -> None:
    if isinstance(unreadable.error, UnreachableError):
        pytest.skip(f"unchecked: {unreadable.error}")
    pytest.fail(str(unreadable.error), pytrace=False)
