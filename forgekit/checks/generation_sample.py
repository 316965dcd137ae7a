"""Generation samples can be generated again."""

from __future__ import annotations

import re

from forgekit.alloy import Alloy
from forgekit.alloy.pointer import find, join, objects
from forgekit.checks import Check, Evidence, Found, unchecked, unproven
from forgekit.findings import Claim, Finding

PLACEHOLDER = re.compile(r"\(.*sample\)", re.IGNORECASE)
SETTINGS = ("decoding", "seed", "temperature", "generationConfig")


def claims(alloy: Alloy) -> Found:
    for pointer, row in objects(alloy.tree, "/results/samples"):
        if isinstance(row.get("completion"), str):
            yield join(pointer, "completion"), row.get("label")


def settle(claim: Claim, evidence: Evidence) -> Finding:
    row = find(evidence.alloy.tree, claim.pointer.removesuffix("/completion"))
    if PLACEHOLDER.fullmatch(str(row.get("prompt"))):
        reason = f"the prompt is recorded as {row.get('prompt')!r}"
        return unproven(claim, reason, "samples: record the exact prompt and the decoding settings")
    if not any(key in row for key in SETTINGS):
        return unproven(claim, "no decoding settings are recorded", "samples: record the decoding settings")
    return unchecked(claim, "generating it again takes the weights, which this version of forgekit does not load")


CHECK = Check(name="generation-sample", tier=2, claims=claims, settle=settle, domain="llm-forge")
