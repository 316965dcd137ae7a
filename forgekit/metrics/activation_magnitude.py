"""The alloy schema's word for the mean norm of an expert's outputs."""

from __future__ import annotations

from dataclasses import replace

from forgekit.metrics.man import METRIC as MAN

METRIC = replace(MAN, name="activation_magnitude")
