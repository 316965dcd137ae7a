"""The suite's own plugin, for a checkout that is not installed."""

from __future__ import annotations

pytest_plugins = ["forgekit.pytest_plugin"]
