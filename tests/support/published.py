"""Published material that is not ours to ship: used where an environment variable says it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

CATALOG, SCORING = "FORGEKIT_CATALOG", "FORGEKIT_SCORING"


def folder(variable: str) -> Path:
    """The folder a variable names; without it, the asking test or module is skipped."""
    named = os.environ.get(variable)
    if not named:
        pytest.skip(f"{variable} names no folder", allow_module_level=True)
    path = Path(named)
    assert path.is_dir(), f"{variable}={named} is not a folder"
    return path.resolve()
