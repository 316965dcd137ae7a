"""A receipt says when, and where, the artifact was published."""

from __future__ import annotations

from forgekit.alloy import Alloy
from forgekit.checks import Check, Evidence, Found, unchecked, unproven
from forgekit.findings import Claim, Finding


def claims(alloy: Alloy) -> Found:
    if isinstance(alloy.at("/receipt"), dict):
        yield "/receipt", alloy.at("/receipt/issuedAt")


def settle(claim: Claim, evidence: Evidence) -> Finding:
    if not evidence.alloy.at("/receipt"):
        return unproven(claim, "the receipt is empty", "receipt: record issuedAt and the publications, or leave it out")
    if claim.expected is None:
        return unproven(claim, "the receipt has no date", "receipt: record issuedAt")
    return unchecked(claim, "nobody but the publisher attests the date: the receipt is neither signed nor time-stamped")


CHECK = Check(name="receipt", tier=3, claims=claims, settle=settle)
