"""Publish the artifact; the name some recipes use for publish."""

from __future__ import annotations

from forgekit.stages import Stage
from forgekit.stages.publish import Params

STAGE = Stage(name="deliver", params=Params, purpose="ship")
