"""forgekit: forge language models from recipes, and hold published ones to their word."""

from __future__ import annotations

__version__ = "0.1.0"
