"""The model card is the one whose hash was recorded."""

from __future__ import annotations

from forgekit.alloy import Alloy
from forgekit.alloy.pointer import join, objects
from forgekit.checks import Check, Evidence, Found, confirmed, judge_hash_text, refuted, without_file
from forgekit.digest import Digest
from forgekit.errors import SourceError
from forgekit.findings import Claim, Finding

CARD = "README.md"


def claims(alloy: Alloy) -> Found:
    if alloy.at("/receipt/cardHash") is not None:
        yield "/receipt/cardHash", alloy.at("/receipt/cardHash")
    for pointer, stage in objects(alloy.tree, "/stages"):
        if stage.get("cardHash") is not None:
            yield join(pointer, "cardHash"), stage["cardHash"]


def settle(claim: Claim, evidence: Evidence) -> Finding:
    if malformed := judge_hash_text(claim, "card"):
        return malformed
    try:
        observed = evidence.sha256(CARD)
    except SourceError as error:
        return without_file(claim, error, f"card: publish {CARD} with the artifact")
    if observed == Digest.parse(claim.expected):
        return confirmed(claim, str(observed), file=CARD)
    reason = f"{CARD} hashes to {observed.short}: the card was changed after it was recorded"
    return refuted(claim, str(observed), reason, "card: republish the receipt with the card's hash")


CHECK = Check(name="card-hash", tier=3, claims=claims, settle=settle)
