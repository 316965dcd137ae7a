"""The standards' own libraries, asked for where they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from forgekit.errors import MachineError

HINT = "pip install 'forgekit[attest]'"


def library(name: str) -> Any:
    """The module called ``name``.

    Raises:
        MachineError: it, or something it needs, is not installed here.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = (getattr(error, "name", None) or name).split(".")[0]
        raise MachineError(f"the library {missing} is not installed, and {name} is needed here", hint=HINT) from error
