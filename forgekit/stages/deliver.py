"""Publish the artifact; the name some recipes use for publish."""

from __future__ import annotations

from dataclasses import replace

from forgekit.stages.publish import STAGE as PUBLISH

STAGE = replace(PUBLISH, name="deliver")
