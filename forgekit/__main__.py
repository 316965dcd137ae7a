"""``python -m forgekit``."""

from __future__ import annotations

from forgekit.cli import main

main()
