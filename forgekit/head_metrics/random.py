"""By lot: the control that every other measure should beat."""

from __future__ import annotations

import hashlib

from forgekit.head_metrics import HeadMetric


def draw(seed: int, layer: int, head: int) -> float:
    return float(int.from_bytes(hashlib.sha256(f"{seed}:{layer}:{head}".encode()).digest()[:6]))


HEAD_METRIC = HeadMetric(
    name="random",
    formula="SHA-256 of seed, layer and head",
    source="the usual control",
    needs="nothing",
    draw=draw,
)
